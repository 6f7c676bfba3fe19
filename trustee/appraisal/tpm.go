package appraisal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/tpm/verifier"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// maxEKCert bounds the certificate that a session carries in its cookie.
const maxEKCert = 4 << 10

// TPM gives the factory of TPM verifiers. mac is the trustee's MAC key, from
// which each namespace's credential key is derived.
func TPM(mac []byte) Factory {
	return func(t *tenant.Trust) (Verifier, error) {
		h := hmac.New(sha256.New, mac)
		fmt.Fprintf(h, "coffer tpm credential key 1\x00%s", t.Namespace.Name)
		c := verifier.Config{Simulated: verifier.Production, CredentialKey: h.Sum(nil), References: t.References}
		if t.Namespace.Simulated {
			c.Simulated, c.SimulatedRoots = verifier.InsecureSimulated, t.EKRoots
		} else {
			c.EKRoots, c.EKIntermediates, c.EnrolledAKs = t.EKRoots, t.EKIntermediates, t.EnrolledAKs
		}
		v, err := verifier.New(c)
		if err != nil {
			return nil, err
		}
		return &tpmVerifier{v}, nil
	}
}

type tpmVerifier struct{ v *verifier.Verifier }

// Challenge implements Verifier.
func (t *tpmVerifier) Challenge(req *kbs.Request, nonce string) (*kbs.ChallengeExtra, error) {
	x, err := req.Extra()
	if err != nil {
		return nil, malformed(err)
	}
	if x.TPM == nil {
		return nil, nil // a client of the published protocol; only an enrolled key can pass
	}
	if len(x.TPM.EKCert) > maxEKCert || len(x.TPM.AKPublic) > maxEKCert {
		return nil, malformed(errors.New("EK certificate or AK too long"))
	}
	c, err := t.v.Challenge(x.TPM, nonce)
	if err != nil || c == nil {
		return nil, err
	}
	out := &kbs.ChallengeExtra{TPM: c}
	if slices.Contains(x.SupportedHashAlgorithms, kbs.HashSHA256) {
		out.SelectedHashAlgorithm = kbs.HashSHA256 // what fits a quote's 32 bytes whole
	}
	return out, nil
}

func malformed(err error) error {
	return &denial.Denial{Reason: verifier.ReasonEvidenceMalformed, Component: verifier.Component, Claim: "extra-params", Detail: err.Error()}
}

// Verify implements Verifier.
func (t *tpmVerifier) Verify(in *Input) (*Verified, error) {
	x, err := (&kbs.Request{ExtraParams: in.RequestExtra}).Extra()
	if err != nil {
		return nil, malformed(err)
	}
	r, err := t.v.Verify(verifier.Input{
		Evidence: in.Evidence, Request: x.TPM, Nonce: in.Nonce, RuntimeDataHash: in.RuntimeDataHash, Initdata: in.Initdata, Now: in.Now,
	})
	if err != nil {
		return nil, err
	}
	v := &Verified{
		Claims: r.Claims, Detail: map[string]any{"events": r.Events}, Simulated: r.Simulated, InitdataDoc: r.Initdata,
		// Every event in the quoted registers is one that the owner's build
		// foretold, on a TPM whose key leads to a registered root.
		Vector: ear.Vector{InstanceIdentity: ear.Recognized, Configuration: ear.Recognized, Executables: ear.ApprovedBoot, Hardware: ear.Recognized},
		Debug:  r.Reference == nil || strings.Contains(r.Reference.Image, "debug"),
	}
	delete(v.Claims, "events") // long, and in the record
	if r.InitdataDigest != nil {
		v.Initdata = &ear.Digest{Algorithm: string(initdata.SHA256), Hex: hex.EncodeToString(r.InitdataDigest)}
	} else {
		v.Vector.Configuration = 0 // nothing is known about it
	}
	return v, nil
}
