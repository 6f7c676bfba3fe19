package appraisal

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/tee/verifiers"
	"github.com/cofferproject/coffer/tee/verify"
)

// Reasons of denials of evidence that comes to the Attestation Service itself.
const (
	ReasonRuntimeData    denial.Reason = "runtime-data-unusable"
	ReasonRuntimeMissing denial.Reason = "runtime-data-missing"
	ReasonDigestOnly     denial.Reason = "initdata-digest-unsupported"
)

// UnboundRuntimeData is the mark in a token of evidence that no session was
// compared with.
const UnboundRuntimeData = "runtime-data"

// EvaluationAudience gives the aud of tokens of the Attestation Service's own
// interface. It is another one than that of this trustee's handshakes, because
// there the caller chose nonce and TEE key: whether the evidence is fresh is for
// the caller to say, and this trustee releases no secret on it.
func EvaluationAudience(ns string) string { return "coffer-attestation-service/ns/" + ns }

// Evaluation is what a caller of the Attestation Service wants judged.
type Evaluation struct {
	Namespace string
	Policy    string // id; "" is "default"
	Peer      string // network address
	Requests  []EvaluationRequest
	// InsecureUnbound takes evidence without runtime data, and the token says so.
	InsecureUnbound bool
}

// EvaluationRequest is the evidence of one TEE or of one kind of device.
type EvaluationRequest struct {
	TEE      string
	Evidence json.RawMessage
	// Raw is the report data as it is (32 to 64 bytes); Structured is JSON, the
	// canonical form of which is hashed by Hash ("": SHA-384). One of the two.
	Raw        []byte
	Structured json.RawMessage
	Hash       string
	// Initdata is the document as the guest was given it, InitdataDigest its
	// digest alone, by the TEE's algorithm. At most one of the two.
	Initdata       []byte
	InitdataDigest []byte
}

// maxRaw is the largest report data field of any TEE: a longer text would be cut,
// and what was cut off compared with nothing.
const (
	minRaw = 32
	maxRaw = 64
)

// Evaluate verifies and appraises evidence for a caller who has made the session
// himself, and issues a token with the given id.
func (s *Service) Evaluate(ctx context.Context, id string, e *Evaluation) (*Result, error) {
	p, err := s.prepare(ctx, e.Namespace)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	var all []device
	others := map[string]json.RawMessage{}
	for i := range e.Requests {
		r := &e.Requests[i]
		tee := verifiers.Canonical(r.TEE)
		in, runtime, err := r.input(tee, e.InsecureUnbound)
		if err != nil {
			return nil, err
		}
		in.Now = now
		l, err := s.results(p, tee, e.Peer, in, runtime)
		if err != nil {
			return nil, err
		}
		for j := range l {
			if err := r.checkDigest(tee, l[j].result); err != nil {
				return nil, err
			}
			if in.InsecureSkipReportData {
				l[j].unbound = []string{UnboundRuntimeData}
			}
		}
		all, others[tee] = append(all, l...), r.Evidence
	}
	if err := demanded(all, others); err != nil {
		return nil, err
	}
	if len(all) == 0 || len(all) > maxDevices {
		return nil, &denial.Denial{
			Reason: ReasonAdditionalDevices, Component: Component, Claim: "verification_requests", Measured: fmt.Sprintf("%d devices", len(all)),
			Expected: fmt.Sprintf("1 to %d", maxDevices), Source: "limits of this trustee",
		}
	}
	return s.issue(ctx, p, id, EvaluationAudience(e.Namespace), &Attestation{Namespace: e.Namespace, Policy: e.Policy}, all, now)
}

// input makes the verifier's input and gives the structured runtime data.
func (r *EvaluationRequest) input(tee string, unbound bool) (*verify.Input, map[string]any, error) {
	in := &verify.Input{Evidence: r.Evidence}
	runtime, err := r.runtimeData(in, unbound)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case r.InitdataDigest != nil && r.Initdata != nil:
		return nil, nil, verify.Deny(verify.ReasonInitdataMalformed, Component, "initdata", fmt.Errorf("both a document and a digest"))
	case r.InitdataDigest != nil:
		if err := digestFits(tee, r.InitdataDigest); err != nil {
			return nil, nil, verify.Deny(ReasonDigestOnly, Component, "init_data_digest", err)
		}
		in.InsecureSkipInitdata = true // checkDigest compares instead
	default:
		in.Initdata = r.Initdata
	}
	return in, runtime, nil
}

func (r *EvaluationRequest) runtimeData(in *verify.Input, unbound bool) (map[string]any, error) {
	switch {
	case r.Raw != nil && r.Structured != nil:
		return nil, verify.Deny(ReasonRuntimeData, Component, "runtime_data", fmt.Errorf("both raw and structured"))
	case r.Raw != nil:
		if len(r.Raw) < minRaw || len(r.Raw) > maxRaw {
			return nil, verify.Mismatch(ReasonRuntimeData, Component, "runtime_data", fmt.Sprintf("%d bytes", len(r.Raw)), fmt.Sprintf("%d to %d", minRaw, maxRaw), "report data fields of TEEs")
		}
		in.ReportData = r.Raw
		return nil, nil
	case r.Structured != nil:
		return r.structured(in)
	case unbound:
		in.InsecureSkipReportData = true
		return nil, nil
	}
	return nil, verify.Mismatch(ReasonRuntimeMissing, Component, "runtime_data", "none", "what ties the evidence to a session", "attestation request")
}

func (r *EvaluationRequest) structured(in *verify.Input) (map[string]any, error) {
	deny := func(err error) (map[string]any, error) {
		return nil, verify.Deny(ReasonRuntimeData, Component, "runtime_data", err)
	}
	canon, err := kbs.Canonicalize(r.Structured)
	if err != nil {
		return deny(err)
	}
	alg := r.Hash
	if alg == "" {
		alg = kbs.DefaultHash
	}
	if in.ReportData, err = kbs.Hash(alg, canon); err != nil {
		return deny(err)
	}
	d := json.NewDecoder(bytes.NewReader(canon))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil || m == nil {
		return deny(fmt.Errorf("not an object"))
	}
	in.Nonce, _ = m["nonce"].(string)
	for k, v := range m {
		if text, ok := v.(string); ok && len(text) > policy.MaxClaim {
			delete(m, k) // tokens travel in headers; the evidence covers it all the same
		}
	}
	return m, nil
}

// launchBound are the TEEs whose register holds the digest of initdata itself, so
// that a digest can be compared without the document.
var launchBound = []string{"snp", "tdx", "sgx", "cca"}

func digestFits(tee string, digest []byte) error {
	if !slices.Contains(launchBound, tee) {
		return fmt.Errorf("%.40q is judged with the whole document only", tee)
	}
	alg, err := initdata.AlgorithmFor(tee)
	if err != nil {
		return err
	}
	want, err := initdata.Digest(alg, nil)
	if err != nil {
		return err
	}
	if len(digest) != len(want) || !slices.ContainsFunc(digest, func(b byte) bool { return b != 0 }) {
		return fmt.Errorf("not a digest by %s", alg)
	}
	return nil
}

// checkDigest compares the register with a digest that came without its document.
func (r *EvaluationRequest) checkDigest(tee string, v *verify.Result) error {
	if r.InitdataDigest == nil {
		return nil
	}
	text, ok := v.Claims["init_data"].(string)
	register, err := hex.DecodeString(text)
	if !ok || err != nil || len(register) == 0 {
		return fmt.Errorf("appraisal: the verifier of %s gives no init_data", tee)
	}
	if want := initdata.Fit(r.InitdataDigest, len(register)); !bytes.Equal(register, want) {
		return verify.Mismatch(verify.ReasonInitdataMismatch, Component, "initdata", text, hex.EncodeToString(want), "digest in the attestation request")
	}
	return nil
}
