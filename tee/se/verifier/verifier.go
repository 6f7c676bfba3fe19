// Package verifier checks IBM Secure Execution evidence (wire name "se"): the
// ultravisor's HMAC under a measurement key that this trustee has made.
// tee/se/SPEC.md lists what is checked, in order.
//
// Invariants: no evidence of a machine was ever seen, so nothing is accepted unless
// that is allowed by name. Secure Execution binds no initdata, so evidence that
// comes with a document is denied. The verdict is a pure function of the input and
// the configuration.
//
// Trust zone: trustee and owner.
package verifier

import (
	"bytes"
	"crypto/hmac"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/se"
	"github.com/cofferproject/coffer/tee/verify"
)

// Component names this verifier in denials.
const Component = "se-verifier"

// Unproven must be in Config.AllowUnproven.
const Unproven = "se"

// Reasons of this verifier; the shared ones are in package verify.
const (
	ReasonMalformed   denial.Reason = "se-evidence-malformed"
	ReasonSealed      denial.Reason = "se-challenge-foreign"
	ReasonMeasurement denial.Reason = "se-measurement-mismatch"
	ReasonImage       denial.Reason = "se-image-unknown"
	ReasonHostKey     denial.Reason = "se-host-key-unknown"
	ReasonOther       denial.Reason = "se-challenge-mismatch"    // evidence for another session's challenge
	ReasonNoChallenge denial.Reason = "se-challenge-unavailable" // what one takes is not registered
)

// Config is what the verifier may believe.
type Config struct {
	verify.Config
	// Opener opens the sealed key and nonce; without one all evidence is denied.
	Opener Opener
	// Challenges make challenges; nil: none are made, for evidence that was
	// recorded elsewhere.
	Challenges *Challenges
	// Images are the tags of the images that may attest; empty: any, and a policy
	// decides by the claims.
	Images []*se.Tags
	// HostKeys are the hashes of the machines' public host keys that requests are
	// encrypted for (32 bytes each); empty: any, and a policy decides.
	HostKeys [][]byte
}

// Verifier implements verify.Verifier.
type Verifier struct{ cfg Config }

// New makes a verifier.
func New(cfg Config) (*Verifier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	for i, k := range cfg.HostKeys {
		if len(k) != se.PHKHSize {
			return nil, fmt.Errorf("se verifier: host key hash %d has %d bytes, not %d", i, len(k), se.PHKHSize)
		}
	}
	return &Verifier{cfg}, nil
}

// Verify implements verify.Verifier.
func (v *Verifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	e, err := se.Parse(in.Evidence)
	if err != nil {
		return nil, verify.Deny(ReasonMalformed, Component, "evidence", err)
	}
	tags, err := se.ParseTags(e.Tags)
	if err != nil {
		return nil, verify.Deny(ReasonMalformed, Component, "image header tags", err)
	}
	if v.cfg.Kind != verify.Production {
		return nil, verify.Mismatch(verify.ReasonNotSimulated, Component, "root", "an ultravisor", "a simulator's (there is none for Secure Execution)", "simulated namespace")
	}
	if err := v.cfg.Unproven(Component, Unproven); err != nil {
		return nil, err
	}
	r := &verify.Result{TEE: se.WireName, Class: verify.ClassCPU, Unproven: []string{Unproven}, Claims: claims(e, tags)}
	if err := answers(e, in, r); err != nil {
		return nil, err
	}
	if err := v.measurement(e, r); err != nil {
		return nil, err
	}
	if err := verify.CheckReportData(Component, e.UserData, in, r); err != nil {
		return nil, err
	}
	if in.Initdata != nil {
		return nil, verify.Mismatch(verify.ReasonInitdataUnbound, Component, "initdata", "a document", "none: Secure Execution binds no initdata", "attestation request")
	}
	if err := v.known(e, tags, r); err != nil {
		return nil, err
	}
	return []*verify.Result{r}, nil
}

// answers compares the parts of the challenge that a guest carries through with
// those of the session's own: its nonce. The nonce itself is in the user data.
func answers(e *se.Evidence, in *verify.Input, r *verify.Result) error {
	if in.InsecureSkipReportData {
		return nil // recorded, and its session with it
	}
	c, err := se.ParseChallenge([]byte(in.Nonce))
	if err != nil {
		return verify.Deny(ReasonOther, Component, "nonce", err)
	}
	for _, x := range []struct {
		name     string
		is, want []byte
	}{{"measurement key", e.SealedKey, c.SealedKey}, {"request nonce", e.SealedNonce, c.SealedNonce}, {"image header tags", e.Tags, c.Tags}} {
		if !bytes.Equal(x.is, x.want) {
			return verify.Deny(ReasonOther, Component, "challenge: "+x.name, errors.New("not that of this session"))
		}
	}
	r.Checked("challenge", "measurement key, nonce and image", "nonce of this session")
	return nil
}

// measurement recomputes the ultravisor's HMAC.
func (v *Verifier) measurement(e *se.Evidence, r *verify.Result) error {
	if v.cfg.Opener == nil {
		return verify.Deny(ReasonSealed, Component, "measurement key", errors.New("this trustee has no key that challenges are sealed with"))
	}
	key, err := v.cfg.Opener.Open(MeasurementKey, e.SealedKey)
	if err == nil && len(key) != se.KeySize {
		err = fmt.Errorf("%d bytes, not %d", len(key), se.KeySize)
	}
	if err != nil {
		return verify.Deny(ReasonSealed, Component, "measurement key", err)
	}
	nonce, err := v.cfg.Opener.Open(RequestNonce, e.SealedNonce)
	if err == nil && len(nonce) != se.NonceSize {
		err = fmt.Errorf("%d bytes, not %d", len(nonce), se.NonceSize)
	}
	if err != nil {
		return verify.Deny(ReasonSealed, Component, "request nonce", err)
	}
	if !hmac.Equal(se.Measure(key, e.Tags, e.CUID, e.UserData, nonce, e.Additional), e.Measurement) {
		// The right value is a MAC under a secret key: it is shown to nobody.
		return verify.Deny(ReasonMeasurement, Component, "measurement", errors.New("not the ultravisor's over these values"))
	}
	r.Checked("measurement", hex.EncodeToString(e.Measurement), "HMAC-SHA512 under this challenge's key")
	return nil
}

// known compares image and host keys with what the configuration names.
func (v *Verifier) known(e *se.Evidence, tags *se.Tags, r *verify.Result) error {
	if len(v.cfg.Images) > 0 {
		ok := false
		for _, i := range v.cfg.Images {
			ok = ok || bytes.Equal(i.Bytes(), e.Tags)
		}
		if !ok {
			return verify.Mismatch(ReasonImage, Component, "image header tag", hex.EncodeToString(tags.Tag), fmt.Sprintf("one of %d images", len(v.cfg.Images)), "configuration")
		}
		r.Checked("image", hex.EncodeToString(tags.Tag), "configuration")
	}
	if len(v.cfg.HostKeys) > 0 {
		for i, name := range []string{"image host key", "attestation host key"} {
			hash := e.Additional[i*se.PHKHSize : (i+1)*se.PHKHSize]
			ok := false
			for _, k := range v.cfg.HostKeys {
				ok = ok || bytes.Equal(k, hash)
			}
			if !ok {
				return verify.Mismatch(ReasonHostKey, Component, name, hex.EncodeToString(hash), fmt.Sprintf("one of %d host keys", len(v.cfg.HostKeys)), "configuration")
			}
			r.Checked(name, hex.EncodeToString(hash), "configuration")
		}
	}
	return nil
}

// claims gives the published names, then the image's digests (additions).
func claims(e *se.Evidence, t *se.Tags) map[string]any {
	h := hex.EncodeToString
	return map[string]any{
		"cuid": h(e.CUID), "version": int64(se.Version), "tag": h(t.Tag),
		"image_phkh": h(e.Additional[:se.PHKHSize]), "attestation_phkh": h(e.Additional[se.PHKHSize:]), "report_data": h(e.UserData),
		"page_list_digest": h(t.PLD), "address_list_digest": h(t.ALD), "tweak_list_digest": h(t.TLD),
	}
}
