// Package trustauthority has TDX and SGX evidence of a namespace judged by Intel Trust
// Authority, as the published KBS can (shared facts: trustee sections 1.4 and 2.8).
//
// Invariants: what the service says counts only in a token that one of its keys has
// signed, that is fresh, and whose register holds the hash of nonce and TEE key of this
// session: that is computed here and not believed; so is the digest of initdata. A guest
// affirms only if every policy that this trustee names has matched; no policy, no
// affirmation. The session's token is this trustee's own. The service's keys are fetched
// in the background, and no request waits for them; the one question that a request
// must ask is bounded in time, size and number, and a service that is late, gone or
// talks nonsense lets nobody in.
//
// Trust zone: trustee. The service judges for this trustee and is trusted with that; it
// gets evidence, nonce and the public TEE key, and no secret.
package trustauthority

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/sgx"
	"github.com/cofferproject/coffer/tee/tdx"
	"github.com/cofferproject/coffer/tee/verifiers"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/trustee/appraisal"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Component names this package in denials.
const Component = "trust-authority"

// Unproven is what a namespace must name in allow_unproven: the service's tokens are
// read as its documentation says, and none was at hand.
const Unproven = "trust-authority"

// ReasonMalformed says that the evidence is none that could be sent on.
// docs/denials.md explains it.
const ReasonMalformed denial.Reason = "trust-authority-evidence-malformed"

// ReasonHash says that the client's hash algorithm is not the one that the service
// takes for this TEE. docs/denials.md explains it.
const ReasonHash denial.Reason = "hash-algorithm-unusable"

// hashes are what the service expects runtime data to be hashed with.
var hashes = map[string]string{tdx.WireName: kbs.HashSHA512, sgx.WireName: kbs.HashSHA256}

// Local judges the evidence of all other namespaces.
type Local interface {
	Challenge(ctx context.Context, ns string, req *kbs.Request, nonce string) (*kbs.Challenge, string, error)
	Attest(ctx context.Context, id string, a *appraisal.Attestation) (*appraisal.Result, error)
}

// Config makes a Service.
type Config struct {
	Options
	// Namespace of this trustee for which the service judges.
	Namespace string
	Local     Local
	Registry  *tenant.Registry
	Signer    appraisal.Signer
	Now       func() time.Time
}

// Service answers as appraisal.Service does.
type Service struct {
	cfg  Config
	http *client
	keys *keys
	open chan struct{} // questions that wait for an answer
}

// New refuses a configuration with a part missing.
func New(c Config) (*Service, error) {
	if c.Namespace == "" || c.Local == nil || c.Registry == nil || c.Signer == nil || c.Now == nil {
		return nil, errors.New("trustauthority: a part of the configuration is missing")
	}
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("Intel Trust Authority: %w", err)
	}
	h, err := newClient(&c.Options)
	if err != nil {
		return nil, fmt.Errorf("Intel Trust Authority: %w", err)
	}
	k, err := newKeys(c.Keys, h, c.Now)
	if err != nil {
		return nil, fmt.Errorf("Intel Trust Authority: %w", err)
	}
	return &Service{c, h, k, make(chan struct{}, calls)}, nil
}

// Run keeps the service's keys until ctx ends.
func (s *Service) Run(ctx context.Context) { s.keys.run(ctx) }

// Challenge selects the hash that the service expects, from those of the client. One
// that lists none gets the general challenge, as published.
func (s *Service) Challenge(ctx context.Context, ns string, req *kbs.Request, nonce string) (*kbs.Challenge, string, error) {
	if ns != s.cfg.Namespace {
		return s.cfg.Local.Challenge(ctx, ns, req, nonce)
	}
	tee := verifiers.Canonical(req.TEE)
	want, ok := hashes[tee]
	if !ok {
		return nil, "", &denial.Denial{
			Reason: appraisal.ReasonTEEUnsupported, Component: Component, Claim: "tee", Measured: fmt.Sprintf("%.40q", tee), Expected: "sgx or tdx", Source: "Intel Trust Authority judges this namespace's evidence",
		}
	}
	out := &kbs.Challenge{Nonce: nonce, ExtraParams: json.RawMessage(`""`)}
	list, err := supported(req.ExtraParams)
	switch {
	case err != nil:
		return nil, "", verify.Deny(ReasonHash, Component, "supported-hash-algorithms", err)
	case list == nil:
		return out, kbs.DefaultHash, nil
	case !slices.Contains(list, want):
		return nil, "", unusable(fmt.Sprintf("%.200q", list), want)
	}
	if out.ExtraParams, err = json.Marshal(map[string]string{"selected-hash-algorithm": want}); err != nil {
		return nil, "", fmt.Errorf("encoding challenge: %w", err)
	}
	return out, want, nil
}

func unusable(have, want string) error {
	return &denial.Denial{Reason: ReasonHash, Component: Component, Claim: "hash algorithm of runtime data", Measured: have, Expected: want, Source: "Intel Trust Authority"}
}

// supported reads the client's list; nil: it has none.
func supported(extra json.RawMessage) ([]string, error) {
	var m map[string]json.RawMessage
	if json.Unmarshal(extra, &m) != nil { // "" in general
		return nil, nil
	}
	raw, ok := m["supported-hash-algorithms"]
	if !ok || string(raw) == "null" || string(raw) == `""` {
		return nil, nil
	}
	list := []string{}
	if err := json.Unmarshal(raw, &list); err != nil || list == nil {
		return nil, errors.New("not a list of names")
	}
	return list, nil
}

// Attest has evidence judged and issues this trustee's token with the given id on the
// result.
func (s *Service) Attest(ctx context.Context, id string, a *appraisal.Attestation) (*appraisal.Result, error) {
	if a.Namespace != s.cfg.Namespace {
		return s.cfg.Local.Attest(ctx, id, a)
	}
	ns, err := s.cfg.Registry.Namespace(ctx, a.Namespace)
	if err != nil {
		return nil, err
	}
	if ns.Simulated {
		return nil, verify.Mismatch(verify.ReasonNotSimulated, Component, "evidence", "of hardware", "simulated", "namespace "+ns.Name)
	}
	allowed := verify.Config{Kind: verify.Production, AllowUnproven: ns.AllowUnproven}
	if err := allowed.Unproven(Component, Unproven); err != nil {
		return nil, err
	}
	q, err := questionOf(a)
	if err != nil {
		return nil, err
	}
	raw, err := s.ask(ctx, q)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	c, err := s.keys.verify(raw, now)
	if err != nil {
		return nil, s.nonsense(err)
	}
	r, err := q.answered(c, now)
	if err != nil {
		return nil, err
	}
	return s.issue(ctx, id, ns, q, c, r, now)
}

func (s *Service) away(why string) error {
	return &denial.Denial{
		Reason: appraisal.ReasonRemoteUnavailable, Component: Component, Claim: "attestation service", Measured: why, Expected: "an answer within " + s.cfg.Timeout.String(), Source: s.cfg.URL,
	}
}

func (s *Service) nonsense(err error) error {
	return &denial.Denial{
		Reason: appraisal.ReasonRemoteAnswer, Component: Component, Claim: "attestation service's token", Measured: err.Error(), Expected: "a fresh token by one of the service's keys", Source: s.cfg.Keys,
	}
}
