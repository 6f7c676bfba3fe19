package appraisal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/tee/verifiers"
	"github.com/cofferproject/coffer/tee/verify"
)

// maxDevices bounds the submodules of a token.
const maxDevices = 60

// device is one device's result with what its runtime data was.
type device struct {
	result  *verify.Result
	runtime map[string]any
	unbound []string // what was not compared, by an insecure choice
}

// verify gives every piece of evidence to its verifier: the primary first, with
// initdata, then the additional ones, without, by the names of their TEEs.
func (s *Service) verify(p *prepared, a *Attestation, now time.Time) ([]device, error) {
	evidence := a.Message.TEEEvidence
	key, err := kbs.ParseTEEKey(a.Message.RuntimeData.TEEPubKey)
	if err == nil {
		err = key.Check()
	}
	if err != nil {
		return nil, &denial.Denial{Reason: ReasonTEEKey, Component: Component, Claim: "tee-pubkey", Detail: err.Error()}
	}
	more, err := Additional(evidence.Additional)
	if err != nil {
		return nil, &denial.Denial{Reason: ReasonAdditionalDevices, Component: Component, Claim: "additional_evidence", Detail: err.Error()}
	}
	hash, err := kbs.BoundRuntimeDataHash(a.Hash, a.Nonce, key, evidence.Additional, a.Message.RuntimeData.Binding)
	if err != nil {
		return nil, err
	}
	in := &verify.Input{Evidence: evidence.Primary, RequestExtra: a.RequestExtra, Nonce: a.Nonce, ReportData: hash, Now: now}
	if a.Message.InitData != nil {
		in.Initdata = []byte(a.Message.InitData.Body)
	}
	claims := kbs.BoundRuntimeDataClaims(a.Nonce, key, evidence.Additional, a.Message.RuntimeData.Binding)
	if len(evidence.Additional) > policy.MaxClaim {
		delete(claims, "additional-evidence")
	}
	out, err := s.results(p, verifiers.Canonical(a.TEE), a.Peer, in, claims)
	if err != nil {
		return nil, err
	}
	if err := demanded(out, more); err != nil {
		return nil, err
	}
	if len(more) == 0 {
		return out, nil
	}
	if hash, err = kbs.DeviceRuntimeDataHash(a.Hash, a.Nonce, key); err != nil {
		return nil, err
	}
	claims = kbs.RuntimeDataClaims(a.Nonce, key, "")
	delete(claims, "additional-evidence")
	for _, tee := range slices.Sorted(maps.Keys(more)) {
		in := &verify.Input{Evidence: more[tee], Nonce: a.Nonce, ReportData: hash, Now: now}
		d, err := s.results(p, tee, a.Peer, in, claims)
		if err != nil {
			return nil, err
		}
		out = append(out, d...)
	}
	if len(out) > maxDevices {
		return nil, &denial.Denial{
			Reason: ReasonAdditionalDevices, Component: Component, Claim: "additional_evidence", Measured: fmt.Sprintf("%d devices", len(out)),
			Expected: fmt.Sprintf("at most %d", maxDevices), Source: "limits of this trustee",
		}
	}
	return out, nil
}

// demanded holds the additional evidence to the owner's list in the verified
// initdata. Coffer's guest does so before it sends anything; another one may not
// know the list.
func demanded(primary []device, more map[string]json.RawMessage) error {
	for _, d := range primary {
		if d.result.InitdataDoc == nil {
			continue
		}
		list, err := d.result.InitdataDoc.AdditionalDevices()
		if err != nil {
			return verify.Deny(verify.ReasonInitdataMalformed, Component, "initdata", err)
		}
		for _, tee := range list {
			if _, ok := more[verifiers.Canonical(tee)]; !ok {
				return verify.Mismatch(ReasonDeviceMissing, Component, "device "+tee, "no evidence", "evidence for this session", "additional_devices in initdata")
			}
		}
	}
	return nil
}

func (s *Service) results(p *prepared, tee, peer string, in *verify.Input, runtime map[string]any) ([]device, error) {
	if s.cfg.Missed != nil && !p.trust.Namespace.Simulated {
		in.Missing = func(m verify.Missing) { s.cfg.Missed(peer, m) }
	}
	v, err := s.verifier(p, tee)
	if err != nil {
		return nil, err
	}
	l, err := v.Verify(in)
	if err != nil {
		return nil, err
	}
	if len(l) == 0 {
		return nil, errors.New("appraisal: a verifier gave no result")
	}
	var out []device
	for _, r := range l {
		if r.Simulated != p.trust.Namespace.Simulated {
			return nil, errors.New("appraisal: the verifier served a namespace of the other kind")
		}
		out = append(out, device{result: r, runtime: runtime})
	}
	return out, nil
}

// Additional decodes additional_evidence: "" or a JSON object of TEE to evidence.
// Of two members of one name the verifier would see one and the owner another, so
// that is refused, and so are two spellings of one.
func Additional(s string) (map[string]json.RawMessage, error) {
	if s == "" {
		return nil, nil
	}
	if len(s) > kbs.MaxAdditional {
		return nil, fmt.Errorf("%d bytes, at most %d", len(s), kbs.MaxAdditional)
	}
	d := json.NewDecoder(bytes.NewReader([]byte(s)))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not an object")
	}
	out := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok {
			return nil, errors.New("not an object")
		}
		name = verifiers.Canonical(name)
		if _, dup := out[name]; dup {
			return nil, fmt.Errorf("two pieces of evidence of %.40q", name)
		}
		if len(out) >= kbs.MaxDeviceTEEs {
			return nil, fmt.Errorf("evidence of more than %d TEEs", kbs.MaxDeviceTEEs)
		}
		var e json.RawMessage
		if err := d.Decode(&e); err != nil {
			return nil, err
		}
		out[name] = e
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the object")
	}
	return out, nil
}
