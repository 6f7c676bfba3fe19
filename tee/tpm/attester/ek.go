package attester

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/tpm"
	"github.com/cofferproject/coffer/tee/tpm/device"
)

// maxCert bounds the certificate that NV memory may announce, in bytes.
const maxCert = 8 << 10

// findEK takes the first kind of endorsement key that has a certificate. A TPM
// without one attests all the same: its key may be enrolled with the trustee.
func (a *Attester) findEK() error {
	for _, k := range tpm.EKKinds() {
		cert, err := readNV(a.t, k.NVIndex)
		if errors.Is(err, tpm2.TPMRCHandle) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading EK certificate %s: %w", k.Name, err)
		}
		a.ekKind, a.ekCert = k, cert
		return a.createEK()
	}
	a.logger.Warn("the TPM has no endorsement certificate")
	return nil
}

func (a *Attester) createEK() error {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(a.ekKind.Template),
	}.Execute(a.t)
	if err != nil {
		return fmt.Errorf("creating endorsement key %s: %w", a.ekKind.Name, err)
	}
	a.ek = &tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}
	// A certificate for another key would only show as a failed activation later.
	area, err := rsp.OutPublic.Contents()
	if err != nil {
		return fmt.Errorf("creating endorsement key: %w", err)
	}
	key, err := tpm2.Pub(*area)
	if err != nil {
		return fmt.Errorf("creating endorsement key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return fmt.Errorf("creating endorsement key: %w", err)
	}
	cert, err := x509.ParseCertificate(a.ekCert)
	if err != nil {
		return fmt.Errorf("parsing EK certificate: %w", err)
	}
	if !bytes.Equal(spki, cert.RawSubjectPublicKeyInfo) {
		return fmt.Errorf("the EK certificate is not for the TPM's %s endorsement key", a.ekKind.Name)
	}
	return nil
}

// activate recovers the secret of the trustee's challenge.
func (a *Attester) activate(ch *kbs.TPMChallenge) ([]byte, error) {
	if a.ek == nil {
		return nil, errors.New("activating credential: the TPM has no endorsement key")
	}
	blob, err := tpm2.Unmarshal[tpm2.TPM2BIDObject](ch.CredentialBlob)
	if err != nil {
		return nil, fmt.Errorf("activating credential: %w", err)
	}
	seed, err := tpm2.Unmarshal[tpm2.TPM2BEncryptedSecret](ch.EncryptedSecret)
	if err != nil {
		return nil, fmt.Errorf("activating credential: %w", err)
	}
	auth := tpm2.PasswordAuth(nil)
	if !a.ekKind.HighRange {
		auth = tpm2.Policy(tpm2.TPMAlgSHA256, 16, endorsementPolicy)
	}
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: a.ak.Handle, Name: a.ak.Name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: a.ek.Handle, Name: a.ek.Name, Auth: auth},
		CredentialBlob: *blob,
		Secret:         *seed,
	}.Execute(a.t)
	if err != nil {
		return nil, fmt.Errorf("activating credential: %w", err)
	}
	return rsp.CertInfo.Buffer, nil
}

// endorsementPolicy satisfies PolicySecret(TPM_RH_ENDORSEMENT).
func endorsementPolicy(t transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: session,
		NonceTPM:      nonce,
	}.Execute(t)
	return err
}

// readNV reads a certificate from NV memory, cut to its own length: some
// indices are larger than what they hold.
func readNV(t transport.TPM, index uint32) ([]byte, error) {
	out, err := device.ReadNV(t, index, false, maxCert)
	if err != nil {
		return nil, err
	}
	var whole asn1.RawValue
	if _, err := asn1.Unmarshal(out, &whole); err != nil {
		return nil, fmt.Errorf("not a certificate: %w", err)
	}
	return whole.FullBytes, nil
}
