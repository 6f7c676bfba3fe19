package verifier

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/tpm"
)

// Challenge makes the credential that only a TPM with the certificate's
// endorsement key and the named attestation key can activate. The certificate's
// chain is judged later, by Verify. Nothing needs to be stored: the secret is
// derived again from the session's nonce.
func (v *Verifier) Challenge(req *kbs.TPMRequest, nonce string) (*kbs.TPMChallenge, error) {
	if req == nil || len(req.EKCert) == 0 {
		return nil, nil // an enrolled key needs no challenge
	}
	ak, err := parseAK(req.AKPublic)
	if err != nil {
		return nil, err
	}
	cert, err := parseEKCert(req.EKCert)
	if err != nil {
		return nil, err
	}
	area, err := tpm.EKPublicArea(cert.PublicKey)
	if err != nil {
		return nil, deny(ReasonEKUntrusted, "EK certificate", err)
	}
	ek, err := tpm2.ImportEncapsulationKey(area)
	if err != nil {
		return nil, deny(ReasonEKUntrusted, "EK certificate", err)
	}
	s := v.secret(nonce, ak.name, req.EKCert)
	defer clear(s)
	blob, seed, err := tpm2.CreateCredential(rand.Reader, ek, ak.name, s)
	if err != nil {
		return nil, fmt.Errorf("making credential: %w", err)
	}
	return &kbs.TPMChallenge{
		CredentialBlob:  tpm2.Marshal(tpm2.TPM2BIDObject{Buffer: blob}),
		EncryptedSecret: tpm2.Marshal(tpm2.TPM2BEncryptedSecret{Buffer: seed}),
	}, nil
}

// secret derives s from the session's nonce and both keys, so that it fits one
// session and one pair of keys only.
func (v *Verifier) secret(nonce string, akName, ekCert []byte) []byte {
	ek := sha256.Sum256(ekCert)
	h := hmac.New(sha256.New, v.cfg.CredentialKey)
	for _, part := range [][]byte{[]byte("coffer tpm credential 1"), []byte(nonce), akName, ek[:]} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	return h.Sum(nil)
}

// verifyCredential checks that the evidence comes from the TPM that activated
// this session's credential, for exactly this runtime data.
func (v *Verifier) verifyCredential(e *tpm.Evidence, in Input, akName []byte) error {
	s := v.secret(in.Nonce, akName, in.Request.EKCert)
	defer clear(s)
	h := hmac.New(sha256.New, s)
	h.Write(in.RuntimeDataHash)
	if !hmac.Equal(h.Sum(nil), e.CredentialMAC) {
		return &denial.Denial{
			Reason: ReasonCredentialMismatch, Component: Component, Claim: "credential_hmac",
			Expected: "the credential of this session, activated in the TPM of the EK certificate", Source: "session challenge",
		}
	}
	return nil
}

func parseEKCert(der []byte) (*x509.Certificate, error) {
	if len(der) > 16<<10 {
		return nil, deny(ReasonEKUntrusted, "EK certificate", errors.New("too long"))
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, deny(ReasonEKUntrusted, "EK certificate", err)
	}
	return c, nil
}
