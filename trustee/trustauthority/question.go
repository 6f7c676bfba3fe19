package trustauthority

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/sgx"
	"github.com/cofferproject/coffer/tee/tdx"
	"github.com/cofferproject/coffer/tee/verifiers"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/trustee/appraisal"
)

const (
	pathAttest = "/appraisal/v2/attest"
	maxAnswer  = 2 * maxToken
	maxText    = 512 // bytes kept of the service's own words
)

// question is one attestation, and what its answer must say.
type question struct {
	tee     string
	quote   []byte
	runtime []byte         // canonical, as the client hashed it
	claims  map[string]any // the same for the token
	input   verify.Input   // hash and initdata of this session
}

func questionOf(a *appraisal.Attestation) (*question, error) {
	q := &question{tee: verifiers.Canonical(a.TEE)}
	want, ok := hashes[q.tee]
	switch {
	case !ok: // the challenge has refused it
		return nil, &denial.Denial{Reason: appraisal.ReasonTEEUnsupported, Component: Component, Claim: "tee", Measured: fmt.Sprintf("%.40q", q.tee), Expected: "sgx or tdx"}
	case a.Hash != want:
		return nil, unusable(a.Hash, want)
	}
	evidence := a.Message.TEEEvidence
	if more, err := appraisal.Additional(evidence.Additional); err != nil || len(more) > 0 {
		return nil, &denial.Denial{
			Reason: appraisal.ReasonAdditionalDevices, Component: Component, Claim: "additional_evidence", Measured: fmt.Sprintf("%d devices", len(more)), Expected: "none",
			Source: "devices are not judged through Intel Trust Authority", Detail: fmt.Sprint(err),
		}
	}
	key, err := kbs.ParseTEEKey(a.Message.RuntimeData.TEEPubKey)
	if err == nil {
		err = key.Check()
	}
	if err != nil {
		return nil, verify.Deny(appraisal.ReasonTEEKey, Component, "tee-pubkey", err)
	}
	if err := q.read(evidence.Primary); err != nil {
		return nil, err
	}
	q.claims = kbs.RuntimeDataClaims(a.Nonce, key, evidence.Additional)
	raw, err := json.Marshal(q.claims)
	if err != nil {
		return nil, fmt.Errorf("runtime data: %w", err)
	}
	if q.runtime, err = kbs.Canonicalize(raw); err != nil {
		return nil, fmt.Errorf("runtime data: %w", err)
	}
	if q.input.ReportData, err = kbs.Hash(want, q.runtime); err != nil {
		return nil, err
	}
	if d := a.Message.InitData; d != nil {
		q.input.Initdata = []byte(d.Body)
	}
	return q, nil
}

// read takes the quote out of the published evidence. Simulated hardware is nobody's to
// judge but Coffer's.
func (q *question) read(primary json.RawMessage) error {
	var note string
	var err error
	if q.tee == tdx.WireName {
		var e *tdx.Evidence
		if e, err = tdx.Parse(primary); err == nil {
			q.quote, note = e.Quote, e.Simulation
		}
	} else {
		var e *sgx.Evidence
		if e, err = sgx.Parse(primary); err == nil {
			q.quote, note = e.Quote, e.Simulation
		}
	}
	if err != nil {
		return verify.Deny(ReasonMalformed, Component, "evidence", err)
	}
	return verify.Production.CheckNote(Component, note)
}

// body is the published request.
func (q *question) body(o *Options) ([]byte, error) {
	evidence := map[string][]byte{"quote": q.quote, "runtime_data": q.runtime} // base64, by its type
	doc := map[string]any{"policy_must_match": !o.AllowUnmatched, q.tee: evidence}
	if len(o.Policies) > 0 {
		doc["policy_ids"] = o.Policies
	}
	return json.Marshal(doc)
}

// ask puts one question, in bounded time and number, and gives the token.
func (s *Service) ask(ctx context.Context, q *question) (string, error) {
	select {
	case s.open <- struct{}{}:
		defer func() { <-s.open }()
	default:
		return "", s.away(fmt.Sprintf("%d questions are open", calls))
	}
	body, err := q.body(&s.cfg.Options)
	if err != nil {
		return "", err
	}
	within, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	status, b, err := s.http.do(within, http.MethodPost, s.cfg.URL+pathAttest, bytes.NewReader(body), http.Header{
		"Content-Type": {"application/json"}, "X-Api-Key": {s.cfg.APIKey},
	}, maxAnswer)
	if err != nil {
		if ctx.Err() != nil { // whoever asked here has gone
			return "", ctx.Err()
		}
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return "", s.away(err.Error())
	}
	if status != http.StatusOK {
		return "", s.refused(status, b)
	}
	var out struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(b, &out); err != nil || out.Token == "" {
		return "", s.nonsense(errors.New("the answer has no token"))
	}
	return out.Token, nil
}

// refused tells a refusal of the evidence from a service that does not work for us: it is
// overloaded, or does not know our API key.
func (s *Service) refused(status int, body []byte) error {
	var doc struct {
		Error   string `json:"error"`
		Message string `json:"message"`
	}
	_ = json.Unmarshal(body, &doc) // its words, if it has any
	text := fmt.Sprintf("status %d: %.*q", status, maxText, doc.Error+doc.Message)
	switch {
	case status >= 500, status == http.StatusTooManyRequests, status == http.StatusUnauthorized, status == http.StatusForbidden, status/100 != 4:
		return s.away(text)
	}
	return &denial.Denial{
		Reason: appraisal.ReasonRemoteRefused, Component: Component, Claim: "evidence", Measured: text, Expected: "an attestation token", Source: s.cfg.URL,
	}
}
