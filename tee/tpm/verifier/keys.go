package verifier

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/tpm"
)

// attestationKey is an AK whose public area passed the rules.
type attestationKey struct {
	key  crypto.PublicKey
	name []byte // algorithm and hash of the public area
}

// verifyAK establishes whose key signs: the session's attestation key, living
// in the TPM whose endorsement key leads to a root, or an enrolled one.
func (v *Verifier) verifyAK(e *tpm.Evidence, in Input, r *Result) (*attestationKey, error) {
	ak, err := parseAK(e.AKArea)
	if err != nil {
		return nil, err
	}
	r.AKName = hex.EncodeToString(ak.name)
	spki, err := x509.MarshalPKIXPublicKey(ak.key)
	if err != nil {
		return nil, deny(ReasonAKMalformed, "ak_tpmt_public", err)
	}
	if !bytes.Equal(spki, e.AKPublic) {
		return nil, &denial.Denial{
			Reason: ReasonAKMismatch, Component: Component, Claim: "ak_public",
			Measured: fingerprint(e.AKPublic), Expected: fingerprint(spki), Source: "ak_tpmt_public of the same evidence",
		}
	}
	if slices.Contains(v.cfg.EnrolledAKs, r.AKName) {
		return ak, nil
	}
	if in.Request == nil || len(in.Request.EKCert) == 0 {
		return nil, &denial.Denial{
			Reason: ReasonEKMissing, Component: Component, Claim: "EK certificate", Measured: "none, attestation key " + r.AKName,
			Expected: "an EK certificate, or an enrolled attestation key", Source: "namespace",
		}
	}
	// The session's key and the evidence's must be one: the credential was made for the former.
	if !bytes.Equal(in.Request.AKPublic, e.AKArea) {
		return nil, &denial.Denial{
			Reason: ReasonAKMismatch, Component: Component, Claim: "attestation key", Measured: r.AKName,
			Expected: "the key that the session was opened with", Source: "session request",
		}
	}
	if err := v.verifyEK(in.Request.EKCert, &in, r); err != nil {
		return nil, err
	}
	if in.skipReportData {
		return ak, nil
	}
	return ak, v.verifyCredential(e, in, ak.name)
}

// parseAK takes a public area only if the TPM must have made the key itself and
// signs nothing with it but its own statements.
func parseAK(area []byte) (*attestationKey, error) {
	if len(area) == 0 || len(area) > 4<<10 {
		return nil, deny(ReasonAKMalformed, "ak_tpmt_public", errors.New("missing or too long"))
	}
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		return nil, deny(ReasonAKMalformed, "ak_tpmt_public", err)
	}
	// The name is the hash of the bytes, so they must be the one encoding.
	if !bytes.Equal(tpm2.Marshal(*pub), area) {
		return nil, deny(ReasonAKMalformed, "ak_tpmt_public", errors.New("not in canonical form"))
	}
	if pub.NameAlg != tpm2.TPMAlgSHA256 {
		return nil, deny(ReasonAKAttributes, "AK name algorithm", fmt.Errorf("%#x is not SHA-256", uint16(pub.NameAlg)))
	}
	a := pub.ObjectAttributes
	for _, need := range []struct {
		name string
		is   bool
		want bool
	}{
		{"restricted", a.Restricted, true},
		{"sign", a.SignEncrypt, true},
		{"decrypt", a.Decrypt, false},
		{"fixedTPM", a.FixedTPM, true},
		{"fixedParent", a.FixedParent, true},
		{"sensitiveDataOrigin", a.SensitiveDataOrigin, true},
		{"encryptedDuplication", a.EncryptedDuplication, false},
	} {
		if need.is != need.want {
			return nil, &denial.Denial{
				Reason: ReasonAKAttributes, Component: Component, Claim: "AK attribute " + need.name,
				Measured: fmt.Sprint(need.is), Expected: fmt.Sprint(need.want), Source: "design.md section 4, rule TPM",
			}
		}
	}
	key, err := publicKey(pub)
	if err != nil {
		return nil, deny(ReasonAKMalformed, "ak_tpmt_public", err)
	}
	sum := sha256.Sum256(area)
	name := append([]byte{byte(tpm2.TPMAlgSHA256 >> 8), byte(tpm2.TPMAlgSHA256 & 0xff)}, sum[:]...)
	return &attestationKey{key, name}, nil
}

// publicKey gives a key that later steps can use without a panic: on its curve,
// of a sane size.
func publicKey(pub *tpm2.TPMTPublic) (crypto.PublicKey, error) {
	k, err := tpm2.Pub(*pub)
	if err != nil {
		return nil, err
	}
	switch k := k.(type) {
	case *ecdsa.PublicKey:
		if _, err := k.ECDH(); err != nil {
			return nil, err
		}
		return k, nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 || k.N.Bit(0) == 0 || k.E < 3 || k.E&1 == 0 || int64(k.E) > 1<<31-1 {
			return nil, errors.New("RSA modulus or exponent out of range")
		}
		return k, nil
	}
	return nil, errors.New("neither RSA nor ECC")
}

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
)

// verifyEK checks the certificate's chain to the namespace's roots.
func (v *Verifier) verifyEK(der []byte, in *Input, r *Result) error {
	cert, err := parseEKCert(der)
	if err != nil {
		return err
	}
	// The EK profile has a critical SAN with only a directoryName, which
	// crypto/x509 reads but leaves unhandled; it names the TPM's model and
	// constrains nothing.
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	if cert.IsCA {
		return deny(ReasonEKUntrusted, "EK certificate", errors.New("is a CA"))
	}
	if err := checkEKUsage(cert); err != nil {
		return deny(ReasonEKUntrusted, "EK certificate", err)
	}
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	trusted := v.cfg.EKRoots
	if v.cfg.Simulated == InsecureSimulated {
		trusted = v.cfg.SimulatedRoots
	}
	var names []string
	for _, c := range trusted {
		roots.AddCert(c)
		names = append(names, fingerprint(c.RawSubjectPublicKeyInfo))
	}
	for _, c := range v.cfg.EKIntermediates {
		inter.AddCert(c)
	}
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: inter, CurrentTime: in.Now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return &denial.Denial{
			Reason: ReasonEKUntrusted, Component: Component, Claim: "EK certificate", Measured: "issuer " + cert.Issuer.String(),
			Expected: "a chain to a root with SPKI " + strings.Join(names, " or "), Source: "roots of the namespace", Detail: err.Error(),
		}
	}
	// Of several chains, as after a root's renewal, none may hold what is revoked.
	r.EKRevocation = EKGood
	for _, c := range chains {
		s, err := v.checkRevocation(c, in)
		if err != nil {
			return err
		}
		if s != EKGood {
			r.EKRevocation = s
		}
	}
	chain := chains[0]
	r.EKFingerprint = fingerprint(cert.RawSubjectPublicKeyInfo)
	r.EKRoot = fingerprint(chain[len(chain)-1].RawSubjectPublicKeyInfo)
	return nil
}

// checkEKUsage demands a certificate of an endorsement key. Roots of manufacturers
// certify other keys too, some of them outside of any TPM; whoever holds such a
// key could answer a credential for an attestation key that he made up. Where the
// extended key usage is left out, as older profiles allow, the key must be one
// that decrypts.
func checkEKUsage(c *x509.Certificate) error {
	const decrypts = x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement
	switch {
	case slices.ContainsFunc(c.UnknownExtKeyUsage, oidEKCertificate.Equal):
		return nil
	case len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0:
		return errors.New("extended key usage is not that of an EK")
	case c.KeyUsage&decrypts == 0:
		return errors.New("neither extended key usage of an EK nor key usage for encipherment or key agreement")
	}
	return nil
}

func fingerprint(spki []byte) string {
	s := sha256.Sum256(spki)
	return hex.EncodeToString(s[:])
}

// ParseAttestationKey takes the public area of a key that signs nothing but its
// TPM's own statements and cannot leave the TPM, for verifiers that learn
// otherwise whose TPM it is. The error is a *denial.Denial of this package's.
func ParseAttestationKey(area []byte) (crypto.PublicKey, error) {
	ak, err := parseAK(area)
	if err != nil {
		return nil, err
	}
	return ak.key, nil
}
