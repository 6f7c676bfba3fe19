package appraisal

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/se"
	severifier "github.com/cofferproject/coffer/tee/se/verifier"
	"github.com/cofferproject/coffer/tee/tpm"
	tpmverifier "github.com/cofferproject/coffer/tee/tpm/verifier"
	"github.com/cofferproject/coffer/tee/verifiers"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// maxEKCert bounds the certificate that a session carries in its cookie.
const maxEKCert = 4 << 10

// Builtin gives the factories of all verifiers. mac is the trustee's MAC key,
// from which each namespace's key for TPM credentials is derived. insecureSamples
// adds the samples, whose evidence anybody can make.
func Builtin(mac []byte, insecureSamples bool) map[string]Factory {
	out := map[string]Factory{}
	for _, tee := range verifiers.Names(insecureSamples) {
		out[tee] = func(t *tenant.Trust, c collateral.Source) (verify.Verifier, error) {
			trust := trustOf(t, tee, c)
			if tee == tpm.WireName {
				return newTPM(mac, t, trust)
			}
			if tee == se.WireName {
				return newSE(mac, t, trust)
			}
			if insecureSamples {
				return verifiers.NewInsecureSample(tee, trust)
			}
			return verifiers.New(tee, trust)
		}
	}
	return out
}

// trustOf gives what a namespace's verifier of a TEE may believe.
func trustOf(t *tenant.Trust, tee string, c collateral.Source) *verifiers.Trust {
	out := &verifiers.Trust{
		Config:  verify.Config{Kind: verify.Production, AllowUnproven: t.Namespace.AllowUnproven, Collateral: c},
		Anchors: t.Anchors,
	}
	if t.Namespace.Simulated {
		out.Kind, out.SimulatedRoots, out.Anchors = verify.InsecureSimulated, t.SimulatedRoots(tee), nil
	}
	return out
}

func newTPM(mac []byte, t *tenant.Trust, trust *verifiers.Trust) (verify.Verifier, error) {
	h := hmac.New(sha256.New, mac)
	fmt.Fprintf(h, "coffer tpm credential key 1\x00%s", t.Namespace.Name)
	trust.TPM = tpmverifier.Trust{CredentialKey: h.Sum(nil), References: t.References}
	if !t.Namespace.Simulated {
		trust.TPM.EKRoots, trust.TPM.EKIntermediates, trust.TPM.EnrolledAKs = t.EKRoots, t.EKIntermediates, t.EnrolledAKs
	}
	v, err := tpmverifier.NewTEE(trust.Config, trust.TPM)
	if err != nil {
		return nil, err
	}
	return &tpmChallenger{v}, nil
}

// tpmChallenger speaks the TPM part of the handshake.
type tpmChallenger struct{ *tpmverifier.TEE }

// Challenge implements Challenger.
func (t *tpmChallenger) Challenge(req *kbs.Request, nonce string) (*Challenge, error) {
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
	c, err := t.TEE.Challenge(x.TPM, nonce)
	if err != nil || c == nil {
		return nil, err
	}
	out := &kbs.ChallengeExtra{TPM: c}
	if slices.Contains(x.SupportedHashAlgorithms, kbs.HashSHA256) {
		out.SelectedHashAlgorithm = kbs.HashSHA256 // what fits a quote's 32 bytes whole
	}
	return &Challenge{Extra: out}, nil
}

// newSE gives the verifier a key that challenges are sealed with, the same on
// every replica.
func newSE(mac []byte, t *tenant.Trust, trust *verifiers.Trust) (verify.Verifier, error) {
	h := hmac.New(sha256.New, mac)
	fmt.Fprintf(h, "coffer se challenge key 1\x00%s", t.Namespace.Name)
	var err error
	if trust.SE, err = severifier.NewSealer(h.Sum(nil)); err != nil {
		return nil, err
	}
	v, err := verifiers.New(se.WireName, trust)
	if err != nil {
		return nil, err
	}
	s, ok := v.(*severifier.Verifier)
	if !ok {
		return nil, errors.New("the verifier of Secure Execution is of another kind")
	}
	return &seChallenger{s}, nil
}

// seChallenger speaks the Secure Execution part of the handshake: the nonce is a
// request to the ultravisor, and the hash is SHA-512.
type seChallenger struct{ *severifier.Verifier }

// Challenge implements Challenger.
func (s *seChallenger) Challenge(req *kbs.Request, _ string) (*Challenge, error) {
	x, err := req.Extra()
	if err == nil && len(x.SupportedHashAlgorithms) > 0 && !slices.Contains(x.SupportedHashAlgorithms, kbs.HashSHA512) {
		err = errors.New("supported-hash-algorithms lack sha512")
	}
	if err != nil {
		return nil, verify.Deny(severifier.ReasonNoChallenge, severifier.Component, "extra-params", err)
	}
	out := new(Challenge)
	if len(x.SupportedHashAlgorithms) > 0 {
		out.Extra = &kbs.ChallengeExtra{SelectedHashAlgorithm: kbs.HashSHA512}
	}
	out.Nonce, err = s.Verifier.Challenge()
	return out, err
}

func malformed(err error) error {
	return &denial.Denial{Reason: tpmverifier.ReasonEvidenceMalformed, Component: tpmverifier.Component, Claim: "extra-params", Detail: err.Error()}
}
