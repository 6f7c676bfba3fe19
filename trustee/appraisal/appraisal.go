// Package appraisal is the Attestation Service: it gives evidence to the
// verifier of its TEE, what that proves to an appraisal policy, and issues the
// result as an EAR token (shared facts: KBS protocol 0.4.0; api/ear/SPEC.md).
//
// Invariants: a TEE without a verifier is denied, there is no fallback; every
// namespace has verifiers and policies of its own, prepared once for what it
// trusts and never on a request; the hardware claim of simulated evidence and the
// configuration claim of debug guests are capped below affirming here, after
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
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/tee/se"
	"github.com/cofferproject/coffer/tee/verifiers"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/trustee/tenant"
	"github.com/cofferproject/coffer/trustee/trace"
)

// Component names this service in denials.
const Component = "attestation-service"

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonTEEUnsupported                  = verifiers.ReasonUnsupported
	ReasonAdditionalDevices denial.Reason = "additional-evidence-malformed"
	ReasonTEEKey            denial.Reason = "tee-key-unusable"
	ReasonPolicyUnknown     denial.Reason = "policy-unknown"
	ReasonDeviceMissing     denial.Reason = "device-missing"
	ReasonTokenTooLarge     denial.Reason = "token-too-large"
	ReasonRemoteUnavailable denial.Reason = "attestation-service-unavailable"
	ReasonRemoteRefused     denial.Reason = "attestation-service-refused"
	ReasonRemoteAnswer      denial.Reason = "attestation-service-untrusted"
)

// Lifetime of a token, as published.
const Lifetime = 5 * time.Minute

// Issuer, developer and build of tokens.
const (
	issuer    = "Coffer-Attestation-Service"
	developer = "https://github.com/cofferproject/coffer"
)

// Challenger is implemented by verifiers whose TEE wants more than a nonce.
type Challenger interface {
	// Challenge gives what the client needs beyond the nonce; nil: nothing.
	Challenge(req *kbs.Request, nonce string) (*Challenge, error)
}

// Challenge is what a verifier has its client asked.
type Challenge struct {
	// Nonce is sent in the place of the session's random one, as published for
	// TEEs whose hardware answers a request of the trustee's; "": that one.
	Nonce string
	Extra *kbs.ChallengeExtra // nil: nothing
}

// Factory makes the verifier of a TEE for what a namespace trusts.
type Factory func(t *tenant.Trust, c collateral.Source) (verify.Verifier, error)

// Signer signs the attestation results of namespaces.
type Signer interface {
	Sign(ctx context.Context, ns string, c *ear.Claims) (string, error)
}

// Config makes a Service.
type Config struct {
	Registry *tenant.Registry
	Signer   Signer
	// Factories is keyed by the TEEs' wire names.
	Factories  map[string]Factory
	Collateral collateral.Source // nil: none
	// References gives the named reference values of a namespace whose are elsewhere;
	// nil, or a nil result: they are in the Registry.
	References func(ns string) *policy.References
	// Missed, if set, hears of collateral that verifiers of real TEEs missed in evidence
	// of a peer; it must not wait.
	Missed func(peer string, m verify.Missing)
	Build  string
	Now    func() time.Time
}

// Service appraises. It is safe for concurrent use.
type Service struct {
	cfg Config

	mu       sync.Mutex
	prepared map[string]*prepared
	making   map[string]*sync.Mutex // one preparation of a namespace at a time
}

// prepared is a namespace's verifiers and policies at one generation of its trust.
type prepared struct {
	trust     *tenant.Trust
	verifiers map[string]verify.Verifier
	faults    map[string]error // of verifiers that cannot be made
	policies  map[string]*policy.Policy
}

// New makes a Service.
func New(c Config) (*Service, error) {
	if c.Registry == nil || c.Signer == nil || len(c.Factories) == 0 || c.Now == nil {
		return nil, errors.New("appraisal: a part of the configuration is missing")
	}
	return &Service{cfg: c, prepared: map[string]*prepared{}, making: map[string]*sync.Mutex{}}, nil
}

// prepare gives what a namespace appraises with, renewed where what it trusts has
// changed or a part of it has expired.
func (s *Service) prepare(ctx context.Context, ns string) (*prepared, error) {
	g, err := s.cfg.Registry.Generation(ctx, ns)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	p, making := s.ready(ns, g, now)
	if p != nil {
		return p, nil
	}
	// Whoever asks meanwhile waits: all of them at once would compile the same
	// policies and hold the same reference values many times over.
	making.Lock()
	defer making.Unlock()
	if p, _ = s.ready(ns, g, now); p != nil {
		return p, nil
	}
	t, err := s.cfg.Registry.Trust(ctx, ns, now)
	if err != nil {
		return nil, err
	}
	p = &prepared{trust: t, verifiers: map[string]verify.Verifier{}, faults: map[string]error{}, policies: map[string]*policy.Policy{}}
	if s.cfg.References != nil {
		if r := s.cfg.References(ns); r != nil {
			t.Values, t.DebugValues = r, nil
		}
	}
	for name, f := range s.cfg.Factories {
		v, err := f(t, s.cfg.Collateral)
		if err != nil {
			p.faults[name] = fmt.Errorf("preparing verifier %s for namespace %s: %w", name, ns, err)
			continue
		}
		p.verifiers[name] = v
	}
	for name, text := range t.Policies {
		if p.policies[name], err = policy.Compile(name, text); err != nil {
			return nil, fmt.Errorf("preparing policy %s of namespace %s: %w", name, ns, err)
		}
	}
	s.mu.Lock()
	s.prepared[ns] = p
	s.mu.Unlock()
	return p, nil
}

// ready gives what is prepared, nil if that is out of date, and the lock to hold
// while it is renewed.
func (s *Service) ready(ns string, g uint64, now time.Time) (*prepared, *sync.Mutex) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.making[ns] == nil {
		s.making[ns] = new(sync.Mutex)
	}
	p := s.prepared[ns]
	if p == nil || p.trust.Generation != g || !p.trust.Until.IsZero() && !now.Before(p.trust.Until) {
		p = nil
	}
	return p, s.making[ns]
}

// verifier gives the verifier of a TEE.
func (s *Service) verifier(p *prepared, tee string) (verify.Verifier, error) {
	if v, ok := p.verifiers[tee]; ok {
		return v, nil
	}
	if err := p.faults[tee]; err != nil {
		return nil, err
	}
	return nil, &denial.Denial{
		Reason: ReasonTEEUnsupported, Component: Component, Claim: "tee", Measured: fmt.Sprintf("%.40q", tee),
		Expected: fmt.Sprint(s.TEEs()), Source: "this trustee's verifiers",
	}
}

// policy gives a policy by id for a class of devices.
func (p *prepared) policy(id, class string) (*policy.Policy, error) {
	name := policy.Name(id, class)
	if c, ok := p.policies[name]; ok {
		return c, nil
	}
	if id == policy.DefaultID && slices.Contains(policy.Classes, class) {
		return policy.Default(class)
	}
	return nil, &denial.Denial{
		Reason: ReasonPolicyUnknown, Component: Component, Claim: "appraisal policy", Measured: fmt.Sprintf("%.80q", name),
		Expected: "a policy of that name", Source: "namespace " + p.trust.Namespace.Name,
	}
}

// TEEs lists the wire names that are served.
func (s *Service) TEEs() []string {
	var out []string
	for t := range s.cfg.Factories {
		out = append(out, t)
	}
	slices.Sort(out)
	return out
}

// Challenge gives the challenge of a session and the hash algorithm that it
// selects: with the random nonce unless the TEE has its own form of one, and
// extra-params JSON "" as published where there is nothing to say.
func (s *Service) Challenge(ctx context.Context, ns string, req *kbs.Request, nonce string) (*kbs.Challenge, string, error) {
	p, err := s.prepare(ctx, ns)
	if err != nil {
		return nil, "", err
	}
	tee := verifiers.Canonical(req.TEE)
	v, err := s.verifier(p, tee)
	if err != nil {
		return nil, "", err
	}
	alg := kbs.DefaultHash
	if tee == se.WireName {
		alg = kbs.HashSHA512 // as published, without a word in the challenge
	}
	out := &kbs.Challenge{Nonce: nonce, ExtraParams: json.RawMessage(`""`)}
	c, ok := v.(Challenger)
	if !ok {
		return out, alg, nil
	}
	x, err := c.Challenge(req, nonce)
	if err != nil {
		return nil, "", err
	}
	if x == nil {
		return out, alg, nil
	}
	if x.Nonce != "" {
		out.Nonce = x.Nonce
	}
	if x.Extra == nil {
		return out, alg, nil
	}
	if x.Extra.SelectedHashAlgorithm != "" {
		alg = x.Extra.SelectedHashAlgorithm
	}
	if out.ExtraParams, err = json.Marshal(x.Extra); err != nil {
		return nil, "", fmt.Errorf("encoding challenge: %w", err)
	}
	return out, alg, nil
}

// Attestation is one whole attestation of a session.
type Attestation struct {
	Namespace    string
	TEE          string
	Hash         string // algorithm selected in the challenge
	Nonce        string
	RequestExtra json.RawMessage
	Message      *kbs.Attestation
	Policy       string // id; "" is "default"
	Peer         string // network address
}

// Result is a token and what it says.
type Result struct {
	Token   string
	ID      string // jti
	Expires time.Time
	Submods map[string]ear.Submod
	// Appraisals and Detail are for the owner's record.
	Appraisals []trusteeapi.Appraisal
	Detail     map[string]any // by submodule
}

// Attest verifies and appraises evidence and issues a token with the given id.
func (s *Service) Attest(ctx context.Context, id string, a *Attestation) (*Result, error) {
	p, err := s.prepare(ctx, a.Namespace)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	devices, err := s.traced(ctx, p, a, now)
	if err != nil {
		return nil, err
	}
	return s.issue(ctx, p, id, tenant.Audience(a.Namespace), a, devices, now)
}

// traced is verify as a part of a trace.
func (s *Service) traced(ctx context.Context, p *prepared, a *Attestation, now time.Time) ([]device, error) {
	_, span := trace.Start(ctx, trace.SpanVerify)
	devices, err := s.verify(p, a, now)
	if tee := verifiers.Canonical(a.TEE); s.cfg.Factories[tee] != nil { // else a peer chose it
		span.Text(trace.KeyTEE, tee)
	}
	span.End(err)
	return devices, err
}

// issue lets the policies judge what was verified and signs the result.
func (s *Service) issue(ctx context.Context, p *prepared, id, audience string, a *Attestation, devices []device, now time.Time) (*Result, error) {
	out := &Result{ID: id, Submods: map[string]ear.Submod{}, Detail: map[string]any{}}
	count := map[string]int{}
	for _, d := range devices {
		name := fmt.Sprintf("%s%d", d.result.Class, count[d.result.Class])
		count[d.result.Class]++
		judging, span := trace.Start(ctx, trace.SpanAppraise)
		sub, rec, err := p.appraise(judging, a, d, now)
		span.End(err)
		if err != nil {
			return nil, err
		}
		rec.Submod = name
		out.Submods[name] = *sub
		out.Appraisals = append(out.Appraisals, *rec)
		if len(d.result.Detail) > 0 {
			out.Detail[name] = d.result.Detail
		}
	}
	c := &ear.Claims{
		Profile: ear.Profile, IssuedAt: now.Unix(), Expires: now.Add(Lifetime).Unix(), Issuer: issuer, ID: id, Audience: audience,
		VerifierID: ear.VerifierID{Developer: developer, Build: s.cfg.Build}, Submods: out.Submods,
	}
	var err error
	out.Token, err = s.cfg.Signer.Sign(ctx, a.Namespace, c)
	if large := (*ear.TooLargeError)(nil); errors.As(err, &large) {
		return nil, &denial.Denial{
			Reason: ReasonTokenTooLarge, Component: Component, Claim: fmt.Sprintf("attestation result of %d devices", len(devices)),
			Measured: fmt.Sprintf("%d bytes", large.Size), Expected: fmt.Sprintf("at most %d", ear.MaxToken), Source: "what fits into an HTTP header",
		}
	}
	if err != nil {
		return nil, err
	}
	out.Expires = time.Unix(c.Expires, 0)
	return out, nil
}
