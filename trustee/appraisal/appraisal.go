// Package appraisal is the Attestation Service: it gives evidence to the
// verifier of its TEE, appraises what that proves, and issues the result as an
// EAR token (shared facts: KBS protocol 0.4.0; api/ear/SPEC.md).
//
// Invariants: a TEE without a verifier is denied, there is no fallback; every
// namespace has a verifier of its own, with its own roots and reference values;
// the hardware claim of simulated evidence is capped below affirming here, after
// everything else had its say; no network on this path.
//
// Trust zone: trustee.
package appraisal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Component names this service in denials.
const Component = "attestation-service"

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonTEEUnsupported    denial.Reason = "tee-unsupported"
	ReasonAdditionalDevices denial.Reason = "additional-evidence-unsupported"
	ReasonTEEKey            denial.Reason = "tee-key-unusable"
)

// Lifetime of a token, as published.
const Lifetime = 5 * time.Minute

// Issuer, developer and build of tokens.
const (
	issuer    = "Coffer-Attestation-Service"
	developer = "https://github.com/cofferproject/coffer"
)

// Verifier checks the evidence of one TEE in one namespace. It is immutable.
type Verifier interface {
	// Challenge gives what the client needs beyond the nonce; nil: nothing.
	Challenge(req *kbs.Request, nonce string) (*kbs.ChallengeExtra, error)
	// Verify gives what the evidence proves, or a *denial.Denial.
	Verify(in *Input) (*Verified, error)
}

// Factory makes the verifier of a TEE for what a namespace trusts.
type Factory func(*tenant.Trust) (Verifier, error)

// Input is the evidence of one device.
type Input struct {
	Evidence json.RawMessage
	// RequestExtra is Request.extra-params of the same session.
	RequestExtra    json.RawMessage
	Nonce           string
	RuntimeDataHash []byte
	Initdata        []byte // plain document; nil if none came
	Now             time.Time
}

// Verified is what evidence proves.
type Verified struct {
	// Claims are the published ones of the TEE; report_data and init_data (hex)
	// are lifted out of them.
	Claims map[string]any
	// Detail is for the owner's record only; it does not go into the token.
	Detail    map[string]any
	Vector    ear.Vector
	Simulated bool
	Debug     bool
	// Initdata is the verified document's digest and content, nil if the guest
	// has none.
	Initdata    *ear.Digest
	InitdataDoc *initdata.Document
}

// Service appraises. It is safe for concurrent use.
type Service struct {
	registry  *tenant.Registry
	signer    *ear.Signer
	factories map[string]Factory
	build     string
	now       func() time.Time

	mu       sync.Mutex
	prepared map[string]*prepared
}

// prepared is a namespace's verifiers at one generation of its trust.
type prepared struct {
	trust     *tenant.Trust
	verifiers map[string]Verifier
}

// New makes a Service. factories is keyed by the TEEs' wire names.
func New(r *tenant.Registry, s *ear.Signer, factories map[string]Factory, build string, now func() time.Time) (*Service, error) {
	if r == nil || s == nil || len(factories) == 0 || now == nil {
		return nil, errors.New("appraisal: a part of the configuration is missing")
	}
	return &Service{registry: r, signer: s, factories: factories, build: build, now: now, prepared: map[string]*prepared{}}, nil
}

// verifier gives the prepared verifier of a namespace, renewed where what the
// namespace trusts has changed.
func (s *Service) verifier(ctx context.Context, ns, tee string) (Verifier, *trusteeapi.Namespace, error) {
	if _, ok := s.factories[tee]; !ok {
		return nil, nil, &denial.Denial{
			Reason: ReasonTEEUnsupported, Component: Component, Claim: "tee", Measured: fmt.Sprintf("%.40q", tee),
			Expected: fmt.Sprint(s.TEEs()), Source: "this trustee's verifiers",
		}
	}
	n, g, err := s.registry.Generation(ctx, ns)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	p := s.prepared[ns]
	s.mu.Unlock()
	if p == nil || p.trust.Generation != g {
		t, err := s.registry.Trust(ctx, ns)
		if err != nil {
			return nil, nil, err
		}
		p = &prepared{trust: t, verifiers: map[string]Verifier{}}
		for name, f := range s.factories {
			if p.verifiers[name], err = f(t); err != nil {
				return nil, nil, fmt.Errorf("preparing verifier %s for namespace %s: %w", name, ns, err)
			}
		}
		s.mu.Lock()
		s.prepared[ns] = p
		s.mu.Unlock()
	}
	return p.verifiers[tee], n, nil
}

// TEEs lists the wire names that are served.
func (s *Service) TEEs() []string {
	var out []string
	for t := range s.factories {
		out = append(out, t)
	}
	slices.Sort(out)
	return out
}

// Challenge gives extra-params for a session: JSON "" as published where there
// is nothing to say.
func (s *Service) Challenge(ctx context.Context, ns string, req *kbs.Request, nonce string) (json.RawMessage, string, error) {
	v, _, err := s.verifier(ctx, ns, req.TEE)
	if err != nil {
		return nil, "", err
	}
	x, err := v.Challenge(req, nonce)
	if err != nil {
		return nil, "", err
	}
	if x == nil {
		return json.RawMessage(`""`), kbs.DefaultHash, nil
	}
	alg := kbs.DefaultHash
	if x.SelectedHashAlgorithm != "" {
		alg = x.SelectedHashAlgorithm
	}
	b, err := json.Marshal(x)
	if err != nil {
		return nil, "", fmt.Errorf("encoding challenge: %w", err)
	}
	return b, alg, nil
}

// Attestation is one whole attestation of a session.
type Attestation struct {
	Namespace    string
	TEE          string
	Hash         string // algorithm selected in the challenge
	Nonce        string
	RequestExtra json.RawMessage
	Message      *kbs.Attestation
}

// Result is a token and what it says.
type Result struct {
	Token    string
	ID       string // jti
	Expires  time.Time
	Submod   ear.Submod
	Verified *Verified
}

// Attest verifies and appraises evidence and issues a token with the given id.
func (s *Service) Attest(ctx context.Context, id string, a *Attestation) (*Result, error) {
	v, n, err := s.verifier(ctx, a.Namespace, a.TEE)
	if err != nil {
		return nil, err
	}
	if a.Message.TEEEvidence.Additional != "" && a.Message.TEEEvidence.Additional != "{}" {
		return nil, &denial.Denial{
			Reason: ReasonAdditionalDevices, Component: Component, Claim: "additional_evidence",
			Expected: "none: no verifier for additional devices", Source: "this trustee's verifiers",
		}
	}
	key, err := kbs.ParseTEEKey(a.Message.RuntimeData.TEEPubKey)
	if err == nil {
		err = key.Check()
	}
	if err != nil {
		return nil, &denial.Denial{Reason: ReasonTEEKey, Component: Component, Claim: "tee-pubkey", Detail: err.Error()}
	}
	hash, err := kbs.RuntimeDataHash(a.Hash, a.Nonce, key, a.Message.TEEEvidence.Additional)
	if err != nil {
		return nil, err
	}
	now := s.now()
	in := &Input{
		Evidence: a.Message.TEEEvidence.Primary, RequestExtra: a.RequestExtra, Nonce: a.Nonce, RuntimeDataHash: hash, Now: now,
	}
	if a.Message.InitData != nil {
		in.Initdata = []byte(a.Message.InitData.Body)
	}
	got, err := v.Verify(in)
	if err != nil {
		return nil, err
	}
	sub, err := submod(a, n, key, got)
	if err != nil {
		return nil, err
	}
	c := &ear.Claims{
		Profile: ear.Profile, IssuedAt: now.Unix(), Expires: now.Add(Lifetime).Unix(), Issuer: issuer, ID: id, Audience: tenant.Audience(a.Namespace),
		VerifierID: ear.VerifierID{Developer: developer, Build: s.build}, Submods: map[string]ear.Submod{"cpu0": *sub},
	}
	token, err := s.signer.Sign(c)
	if err != nil {
		return nil, err
	}
	return &Result{Token: token, ID: id, Expires: time.Unix(c.Expires, 0), Submod: c.Submods["cpu0"], Verified: got}, nil
}
