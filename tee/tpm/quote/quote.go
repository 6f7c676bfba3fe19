// Package quote checks what a TPM 2.0 signed: the signature with a key that the
// caller has proven to be an attestation key, the one encoding, the selection
// and digest of the registers, and the one extend that binds initdata to PCR 8
// (design.md section 4, rules TPM and initdata). The verifiers of all TEEs with
// a TPM share it: tpm, az-snp-vtpm, az-tdx-vtpm, gcp.
//
// Invariants: registers are known by the quote's own selection, never by their
// place in a list alone; only the SHA-256 bank counts; every refusal is a
// *denial.Denial under the caller's ids; no input panics.
//
// Trust zone: trustee and owner.
package quote

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/api/denial"
)

// Checker denies in the name of one verifier.
type Checker struct {
	Component string
	// Ids of denials: a quote that cannot be read, a signature that does not
	// verify, registers left out or of another bank, values that were not quoted.
	Malformed, Signature, Selection, Digest denial.Reason
}

// rule is where the expectations come from.
const rule = "design.md section 4, rule TPM"

func (c *Checker) deny(reason denial.Reason, claim string, err error) error {
	return &denial.Denial{Reason: reason, Component: c.Component, Claim: claim, Detail: fmt.Sprint(err)}
}

// Quote is a quote whose encoding is the one that a TPM gives.
type Quote struct {
	ExtraData []byte // qualifying data
	info      *tpm2.TPMSQuoteInfo
}

// Parse takes only a quote made inside a TPM (TPMS_ATTEST). Whether a TPM signed
// it is for the signature to say.
func (c *Checker) Parse(msg []byte) (*Quote, error) {
	q, err := parse(msg)
	if err != nil {
		return nil, c.deny(c.Malformed, "quote", err)
	}
	return q, nil
}

func parse(msg []byte) (*Quote, error) {
	att, err := tpm2.Unmarshal[tpm2.TPMSAttest](msg)
	if err != nil {
		return nil, err
	}
	if att.Magic != tpm2.TPMGeneratedValue {
		return nil, fmt.Errorf("magic %#x: not made by a TPM", uint32(att.Magic))
	}
	if att.Type != tpm2.TPMSTAttestQuote {
		return nil, fmt.Errorf("attestation type %#x is not a quote", uint16(att.Type))
	}
	info, err := att.Attested.Quote()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(tpm2.Marshal(*att), msg) {
		return nil, errors.New("not in canonical form")
	}
	return &Quote{att.ExtraData.Buffer, info}, nil
}

// Values maps listed values to registers by the quote's selection and checks
// their digest. required names the registers that must be among them.
func Values[T ~[32]byte](c *Checker, q *Quote, listed []T, required []int) (map[int][32]byte, error) {
	sel := q.info.PCRSelect.PCRSelections
	if len(sel) != 1 || sel[0].Hash != tpm2.TPMAlgSHA256 {
		return nil, &denial.Denial{
			Reason: c.Selection, Component: c.Component, Claim: "PCR bank",
			Measured: fmt.Sprintf("%d selections", len(sel)), Expected: "one, of SHA-256", Source: rule,
		}
	}
	quoted := map[int][32]byte{}
	h := sha256.New()
	for i, bits := range sel[0].PCRSelect {
		for bit := range 8 {
			if bits&(1<<bit) == 0 {
				continue
			}
			pcr := 8*i + bit
			if pcr >= len(listed) {
				return nil, c.deny(c.Selection, "PCR selection", fmt.Errorf("register %d", pcr))
			}
			v := [32]byte(listed[pcr])
			quoted[pcr] = v
			h.Write(v[:])
		}
	}
	for _, pcr := range required {
		if _, ok := quoted[pcr]; !ok {
			return nil, &denial.Denial{
				Reason: c.Selection, Component: c.Component, Claim: fmt.Sprintf("PCR %d", pcr),
				Measured: "not quoted", Expected: "quoted", Source: rule,
			}
		}
	}
	if d := h.Sum(nil); !bytes.Equal(d, q.info.PCRDigest.Buffer) {
		return nil, &denial.Denial{
			Reason: c.Digest, Component: c.Component, Claim: "PCR values", Measured: hex.EncodeToString(d),
			Expected: hex.EncodeToString(q.info.PCRDigest.Buffer), Source: "quote",
		}
	}
	return quoted, nil
}

// VerifySignature checks a TPMT_SIGNATURE over msg: ECDSA, RSASSA or RSAPSS with
// SHA-256 or SHA-384.
func (c *Checker) VerifySignature(ak crypto.PublicKey, rawSig, msg []byte) error {
	if err := verifyTPMT(ak, rawSig, msg); err != nil {
		return c.deny(c.Signature, "quote signature", err)
	}
	return nil
}

// VerifyRSASSA checks a bare RSASSA signature with SHA-256 over msg.
func (c *Checker) VerifyRSASSA(ak *rsa.PublicKey, sig, msg []byte) error {
	d := sha256.Sum256(msg)
	if err := rsa.VerifyPKCS1v15(ak, crypto.SHA256, d[:], sig); err != nil {
		return c.deny(c.Signature, "quote signature", err)
	}
	return nil
}

// hash gives the digest of msg by one of the two accepted algorithms.
func hash(alg tpm2.TPMIAlgHash, msg []byte) ([]byte, crypto.Hash, error) {
	var h crypto.Hash
	switch alg {
	case tpm2.TPMAlgSHA256:
		h = crypto.SHA256
	case tpm2.TPMAlgSHA384:
		h = crypto.SHA384
	default:
		return nil, 0, fmt.Errorf("hash %#x is not accepted", uint16(alg))
	}
	w := h.New()
	w.Write(msg)
	return w.Sum(nil), h, nil
}

func verifyTPMT(ak crypto.PublicKey, rawSig, msg []byte) error {
	sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](rawSig)
	if err != nil {
		return err
	}
	if !bytes.Equal(tpm2.Marshal(*sig), rawSig) {
		return errors.New("not in canonical form")
	}
	switch k := ak.(type) {
	case *ecdsa.PublicKey:
		s, err := sig.Signature.ECDSA()
		if err != nil || sig.SigAlg != tpm2.TPMAlgECDSA {
			return errors.New("not ECDSA, but the key is ECC")
		}
		d, _, err := hash(s.Hash, msg)
		if err != nil {
			return err
		}
		if !ecdsa.Verify(k, d, new(big.Int).SetBytes(s.SignatureR.Buffer), new(big.Int).SetBytes(s.SignatureS.Buffer)) {
			return errors.New("does not verify with the attestation key")
		}
		return nil
	case *rsa.PublicKey:
		return verifyRSA(k, sig, msg)
	}
	return fmt.Errorf("key of type %T", ak)
}

func verifyRSA(k *rsa.PublicKey, sig *tpm2.TPMTSignature, msg []byte) error {
	var s *tpm2.TPMSSignatureRSA
	var err error
	switch sig.SigAlg {
	case tpm2.TPMAlgRSASSA:
		s, err = sig.Signature.RSASSA()
	case tpm2.TPMAlgRSAPSS:
		s, err = sig.Signature.RSAPSS()
	default:
		err = errors.New("neither RSASSA nor RSAPSS, but the key is RSA")
	}
	if err != nil {
		return err
	}
	d, h, err := hash(s.Hash, msg)
	if err != nil {
		return err
	}
	if sig.SigAlg == tpm2.TPMAlgRSASSA {
		return rsa.VerifyPKCS1v15(k, h, d, s.Sig.Buffer)
	}
	return rsa.VerifyPSS(k, h, d, s.Sig.Buffer, nil)
}
