package verifier

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
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/tpm"
)

// verifyQuote checks signature, origin, freshness, selection and digest, in
// this order, and fills r.PCRs with the values that the quote covers.
func verifyQuote(e *tpm.Evidence, ak crypto.PublicKey, in Input, r *Result) error {
	if err := verifySignature(ak, e.Quote.Signature, e.Quote.Message); err != nil {
		return err
	}
	att, info, err := parseQuote(e.Quote.Message)
	if err != nil {
		return deny(ReasonQuoteMalformed, "quote", err)
	}
	want := initdata.Fit(in.RuntimeDataHash, tpm.QualifyingSize)
	if in.skipReportData && len(att.ExtraData.Buffer) == tpm.QualifyingSize {
		want = att.ExtraData.Buffer
	}
	if !bytes.Equal(att.ExtraData.Buffer, want) {
		return &denial.Denial{
			Reason: ReasonQuoteReportData, Component: Component, Claim: "report data",
			Measured: hex.EncodeToString(att.ExtraData.Buffer), Expected: hex.EncodeToString(want),
			Source: "nonce and TEE key of this session",
		}
	}
	quoted, err := quotedValues(info, e.Quote.PCRs)
	if err != nil {
		return err
	}
	for pcr, v := range quoted {
		r.PCRs[pcr] = v
	}
	r.quoted, r.reportData = quoted, want
	return nil
}

// parseQuote takes only a quote made inside a TPM, encoded in the one way.
func parseQuote(msg []byte) (*tpm2.TPMSAttest, *tpm2.TPMSQuoteInfo, error) {
	att, err := tpm2.Unmarshal[tpm2.TPMSAttest](msg)
	if err != nil {
		return nil, nil, err
	}
	if att.Magic != tpm2.TPMGeneratedValue {
		return nil, nil, fmt.Errorf("magic %#x: not made by a TPM", uint32(att.Magic))
	}
	if att.Type != tpm2.TPMSTAttestQuote {
		return nil, nil, fmt.Errorf("attestation type %#x is not a quote", uint16(att.Type))
	}
	info, err := att.Attested.Quote()
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(tpm2.Marshal(*att), msg) {
		return nil, nil, errors.New("not in canonical form")
	}
	return att, info, nil
}

// quotedValues maps the listed values to registers by the quote's selection and
// checks their digest. Only registers of the SHA-256 bank count, and those that
// the rules judge must all be there.
func quotedValues(info *tpm2.TPMSQuoteInfo, listed []tpm.PCRHex) (map[int][32]byte, error) {
	sel := info.PCRSelect.PCRSelections
	if len(sel) != 1 || sel[0].Hash != tpm2.TPMAlgSHA256 {
		return nil, &denial.Denial{
			Reason: ReasonQuoteSelection, Component: Component, Claim: "PCR bank",
			Measured: fmt.Sprintf("%d selections", len(sel)), Expected: "one, of SHA-256", Source: "design.md section 4, rule TPM",
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
				return nil, deny(ReasonQuoteSelection, "PCR selection", fmt.Errorf("register %d", pcr))
			}
			quoted[pcr] = listed[pcr]
			h.Write(listed[pcr][:])
		}
	}
	for _, pcr := range refvalue.QuotedPCRs {
		if _, ok := quoted[pcr]; !ok {
			return nil, &denial.Denial{
				Reason: ReasonQuoteSelection, Component: Component, Claim: fmt.Sprintf("PCR %d", pcr),
				Measured: "not quoted", Expected: "quoted", Source: "design.md section 4, rule TPM",
			}
		}
	}
	if d := h.Sum(nil); !bytes.Equal(d, info.PCRDigest.Buffer) {
		return nil, &denial.Denial{
			Reason: ReasonQuoteDigest, Component: Component, Claim: "PCR values", Measured: hex.EncodeToString(d),
			Expected: hex.EncodeToString(info.PCRDigest.Buffer), Source: "quote",
		}
	}
	return quoted, nil
}

func verifySignature(ak crypto.PublicKey, rawSig, msg []byte) error {
	bad := func(err error) error { return deny(ReasonQuoteSignature, "quote signature", err) }
	sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](rawSig)
	if err != nil {
		return bad(err)
	}
	digest := func(h tpm2.TPMIAlgHash) ([]byte, crypto.Hash, error) {
		switch h {
		case tpm2.TPMAlgSHA256:
			s := sha256.Sum256(msg)
			return s[:], crypto.SHA256, nil
		case tpm2.TPMAlgSHA384:
			h := crypto.SHA384.New()
			h.Write(msg)
			return h.Sum(nil), crypto.SHA384, nil
		}
		return nil, 0, fmt.Errorf("hash %#x is not accepted", uint16(h))
	}
	switch k := ak.(type) {
	case *ecdsa.PublicKey:
		s, err := sig.Signature.ECDSA()
		if err != nil || sig.SigAlg != tpm2.TPMAlgECDSA {
			return bad(errors.New("not ECDSA, but the key is ECC"))
		}
		d, _, err := digest(s.Hash)
		if err != nil {
			return bad(err)
		}
		if !ecdsa.Verify(k, d, new(big.Int).SetBytes(s.SignatureR.Buffer), new(big.Int).SetBytes(s.SignatureS.Buffer)) {
			return bad(errors.New("does not verify with the attestation key"))
		}
		return nil
	case *rsa.PublicKey:
		return verifyRSA(k, sig, digest, bad)
	}
	return bad(fmt.Errorf("key of type %T", ak))
}

func verifyRSA(k *rsa.PublicKey, sig *tpm2.TPMTSignature, digest func(tpm2.TPMIAlgHash) ([]byte, crypto.Hash, error), bad func(error) error) error {
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
		return bad(err)
	}
	d, h, err := digest(s.Hash)
	if err != nil {
		return bad(err)
	}
	if sig.SigAlg == tpm2.TPMAlgRSASSA {
		err = rsa.VerifyPKCS1v15(k, h, d, s.Sig.Buffer)
	} else {
		err = rsa.VerifyPSS(k, h, d, s.Sig.Buffer, nil)
	}
	if err != nil {
		return bad(err)
	}
	return nil
}
