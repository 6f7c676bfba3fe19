// Package remoteas has the evidence of a namespace judged by an Attestation Service
// in another process, over the published gRPC (shared facts: trustee sections 2.1
// and 2.2), and takes tokens of other services as passports (section 1.10).
//
// Invariants: an answer counts only if a configured authority or key has signed it,
// it is fresh, and it repeats nonce and TEE key of this session; what an answer does
// not say about initdata, debugging or simulation is never assumed in the guest's
// favour; the session's token is this trustee's own, so that the release gate relies
// on nothing else; a service that is late, gone or talks nonsense lets nobody in. The
// other service is authenticated by TLS, but for one on loopback.
//
// Trust zone: trustee. The service judges for this trustee and is trusted with that
// alone: no secret, no key and no session cookie goes there.
package remoteas

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/aspb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/se"
	"github.com/cofferproject/coffer/tee/verifiers"
	"github.com/cofferproject/coffer/trustee/appraisal"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Component names this package in denials.
const Component = "remote-attestation-service"

// Timeout of one question, below the time in which the KBS must have answered.
const Timeout = 15 * time.Second

// calls is how many questions are open at once. A service that hangs must not take
// all of the KBS's own places along.
const calls = 24

// maxText bounds what is kept of the other side's error texts, in bytes.
const maxText = 512

// issuer of the tokens that repeat the service's results.
const issuer = "Coffer-KBS"

// Local judges the evidence of all other namespaces.
type Local interface {
	Challenge(ctx context.Context, ns string, req *kbs.Request, nonce string) (*kbs.Challenge, string, error)
	Attest(ctx context.Context, id string, a *appraisal.Attestation) (*appraisal.Result, error)
}

// Config makes a Service.
type Config struct {
	// Connection to the service.
	Connection *grpc.ClientConn
	// Name of the service, for people.
	Name string
	// Namespace of this trustee for which it judges.
	Namespace string
	Trust     *Trust
	Local     Local
	Registry  *tenant.Registry
	Signer    appraisal.Signer
	Now       func() time.Time
	// Timeout of one question; 0: Timeout.
	Timeout time.Duration
	// InsecureSample takes samples from a service that does not say what it is.
	InsecureSample bool
}

// Service answers as appraisal.Service does.
type Service struct {
	cfg  Config
	as   aspb.AttestationServiceClient
	open chan struct{}
}

// New refuses a configuration with a part missing.
func New(c Config) (*Service, error) {
	if c.Connection == nil || c.Name == "" || c.Namespace == "" || c.Trust == nil || c.Local == nil || c.Registry == nil || c.Signer == nil || c.Now == nil {
		return nil, errors.New("remoteas: a part of the configuration is missing")
	}
	if c.Timeout == 0 {
		c.Timeout = Timeout
	}
	return &Service{c, aspb.NewAttestationServiceClient(c.Connection), make(chan struct{}, calls)}, nil
}

// Challenge gives the challenge of a session. The nonce is this trustee's own but
// for Secure Execution, whose hardware answers a request that the verifier makes.
func (s *Service) Challenge(ctx context.Context, ns string, req *kbs.Request, nonce string) (*kbs.Challenge, string, error) {
	if ns != s.cfg.Namespace {
		return s.cfg.Local.Challenge(ctx, ns, req, nonce)
	}
	out := &kbs.Challenge{Nonce: nonce, ExtraParams: json.RawMessage(`""`)}
	if verifiers.Canonical(req.TEE) != se.WireName {
		return out, kbs.DefaultHash, nil
	}
	err := s.ask(ctx, func(ctx context.Context) error {
		m, err := s.as.GetAttestationChallenge(ctx, &aspb.ChallengeRequest{Inner: map[string]string{"tee": se.WireName, "tee_params": ""}})
		out.Nonce = m.GetAttestationChallenge()
		return err
	})
	if err == nil && out.Nonce == "" {
		err = s.nonsense("challenge", errors.New("none"))
	}
	if err != nil {
		return nil, "", err
	}
	return out, kbs.HashSHA512, nil
}

// Attest has evidence judged and issues this trustee's token with the given id on
// the result.
func (s *Service) Attest(ctx context.Context, id string, a *appraisal.Attestation) (*appraisal.Result, error) {
	if a.Namespace != s.cfg.Namespace {
		return s.cfg.Local.Attest(ctx, id, a)
	}
	ns, err := s.cfg.Registry.Namespace(ctx, a.Namespace)
	if err != nil {
		return nil, err
	}
	req, want, err := question(ns, a)
	if err != nil {
		return nil, err
	}
	var token string
	if err := s.ask(ctx, func(ctx context.Context) error {
		m, err := s.as.AttestationEvaluate(ctx, req)
		token = m.GetAttestationToken()
		return err
	}); err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	c, err := s.cfg.Trust.verify(token, now)
	if err != nil {
		return nil, s.nonsense("token", err)
	}
	if err := want.answered(c, now); err != nil {
		return nil, s.nonsense("token", err)
	}
	l := localizer{namespace: ns, insecureSample: s.cfg.InsecureSample}
	if err := l.localize(c); err != nil {
		return nil, s.nonsense("token", err)
	}
	return s.issue(ctx, id, a.Namespace, c, now)
}

// question is the published request, and what its answer must repeat.
func question(ns *trusteeapi.Namespace, a *appraisal.Attestation) (*aspb.AttestationRequest, *expected, error) {
	evidence := a.Message.TEEEvidence
	key, err := kbs.ParseTEEKey(a.Message.RuntimeData.TEEPubKey)
	if err == nil {
		err = key.Check()
	}
	if err != nil {
		return nil, nil, &denial.Denial{Reason: appraisal.ReasonTEEKey, Component: Component, Claim: "tee-pubkey", Detail: err.Error()}
	}
	more, err := appraisal.Additional(evidence.Additional)
	if err != nil {
		return nil, nil, &denial.Denial{Reason: appraisal.ReasonAdditionalDevices, Component: Component, Claim: "additional_evidence", Detail: err.Error()}
	}
	tee := verifiers.Canonical(a.TEE)
	want := &expected{nonce: a.Nonce, tees: []string{tee}, binding: a.Message.RuntimeData.Binding}
	if want.key, err = key.MarshalJSON(); err != nil {
		return nil, nil, err
	}
	device := kbs.RuntimeDataClaims(a.Nonce, key, "")
	delete(device, "additional-evidence")
	first, err := individual(tee, evidence.Primary, kbs.BoundRuntimeDataClaims(a.Nonce, key, evidence.Additional, a.Message.RuntimeData.Binding), a.Hash)
	if err != nil {
		return nil, nil, err
	}
	if a.Message.InitData != nil {
		first.InitData = &aspb.IndividualAttestationRequest_InitDataToml{InitDataToml: a.Message.InitData.Body}
	}
	out := &aspb.AttestationRequest{VerificationRequests: []*aspb.IndividualAttestationRequest{first}}
	for _, name := range slices.Sorted(maps.Keys(more)) {
		r, err := individual(name, more[name], device, a.Hash)
		if err != nil {
			return nil, nil, err
		}
		out.VerificationRequests = append(out.VerificationRequests, r)
		want.tees = append(want.tees, name)
	}
	if err := want.demanded(a.Message.InitData); err != nil {
		return nil, nil, err
	}
	if id := a.Policy; id != "" {
		out.PolicyIds = []string{id}
	} else if id = ns.AppraisalPolicy; id != "" {
		out.PolicyIds = []string{id}
	} else {
		out.PolicyIds = []string{"default"} // as the published KBS asks
	}
	return out, want, nil
}

func individual(tee string, evidence json.RawMessage, runtime map[string]any, hash string) (*aspb.IndividualAttestationRequest, error) {
	b, err := json.Marshal(runtime)
	if err != nil {
		return nil, fmt.Errorf("remoteas: %w", err)
	}
	return &aspb.IndividualAttestationRequest{
		Tee: tee, Evidence: base64.RawURLEncoding.EncodeToString(evidence), RuntimeDataHashAlgorithm: hash,
		RuntimeData: &aspb.IndividualAttestationRequest_StructuredRuntimeData{StructuredRuntimeData: string(b)},
	}, nil
}

// ask puts one question, in bounded time and number.
func (s *Service) ask(ctx context.Context, call func(context.Context) error) error {
	select {
	case s.open <- struct{}{}:
		defer func() { <-s.open }()
	default:
		return s.away(fmt.Sprintf("%d questions are open", calls))
	}
	bounded, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	err := call(bounded)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil { // whoever asked here has gone
		return ctx.Err()
	}
	st := status.Convert(err)
	text := fmt.Sprintf("%s: %.*s", st.Code(), maxText, st.Message())
	switch st.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted:
		return s.away(text)
	}
	return &denial.Denial{
		Reason: appraisal.ReasonRemoteRefused, Component: Component, Claim: "evidence", Measured: text, Expected: "an attestation result", Source: s.cfg.Name,
	}
}

func (s *Service) away(why string) error {
	return &denial.Denial{
		Reason: appraisal.ReasonRemoteUnavailable, Component: Component, Claim: "attestation service", Measured: why,
		Expected: "an answer within " + s.cfg.Timeout.String(), Source: s.cfg.Name,
	}
}

func (s *Service) nonsense(claim string, err error) error {
	return &denial.Denial{
		Reason: appraisal.ReasonRemoteAnswer, Component: Component, Claim: "attestation service's " + claim, Measured: err.Error(),
		Expected: "the answer of a trusted service to this session", Source: s.cfg.Name,
	}
}

// issue signs the result as this trustee's own.
func (s *Service) issue(ctx context.Context, id, ns string, c *ear.Claims, now time.Time) (*appraisal.Result, error) {
	remote := c.ID
	expires := now.Add(appraisal.Lifetime)
	if e := time.Unix(c.Expires, 0); e.Before(expires) {
		expires = e // no longer than the service says
	}
	own := &ear.Claims{
		Profile: ear.Profile, IssuedAt: now.Unix(), Expires: expires.Unix(), Issuer: issuer, ID: id, Audience: tenant.Audience(ns),
		VerifierID: c.VerifierID, Submods: c.Submods,
	}
	out := &appraisal.Result{ID: id, Submods: own.Submods, Detail: map[string]any{}, Expires: time.Unix(own.Expires, 0)}
	for _, name := range slices.Sorted(maps.Keys(own.Submods)) {
		m := own.Submods[name]
		out.Appraisals = append(out.Appraisals, trusteeapi.Appraisal{
			Submod: name, TEE: m.Coffer.TEE, Policy: m.PolicyID, Digest: m.Coffer.Policy, Status: string(m.Vector.Status()), Vector: m.Vector.Map(),
			Simulated: m.Coffer.Simulated, Debug: m.Coffer.Debug, Unproven: m.Coffer.Unproven,
			Checks: []trusteeapi.Check{{What: "token of another attestation service", Found: fmt.Sprintf("%.128q of %.128s", remote, c.VerifierID.Build), Source: s.cfg.Name}},
		})
	}
	var err error
	out.Token, err = s.cfg.Signer.Sign(ctx, ns, own)
	if large := (*ear.TooLargeError)(nil); errors.As(err, &large) {
		return nil, &denial.Denial{
			Reason: appraisal.ReasonTokenTooLarge, Component: Component, Claim: "attestation result", Measured: fmt.Sprintf("%d bytes", large.Size),
			Expected: fmt.Sprintf("at most %d", ear.MaxToken), Source: "what fits into an HTTP header",
		}
	}
	return out, err
}
