package intel

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/verify"
)

// checkType says which quotes are judged at all.
func (v *Verifier) checkType(q *quote.Quote, tee uint32, r *Verdict) error {
	if q.TEE() != tee {
		return verify.Mismatch(ReasonQuoteType, Component, "TEE type", fmt.Sprintf("%#x", q.TEE()), fmt.Sprintf("%#x", tee), "TEE of this attestation")
	}
	var what string
	switch {
	case tee == quote.SGX && q.Header.Version == 4:
		what = UnprovenSGXv4
	case tee == quote.SGX && q.Header.Version == 5:
		what = UnprovenSGXv5
	case q.Header.Version == 5 && q.BodyType == quote.BodyTD10:
		what = UnprovenTDXv5TD10
	default:
		return nil
	}
	r.Unproven = append(r.Unproven, what)
	return v.cfg.Unproven(Component, what)
}

// checkSignatures follows the chain of keys: PCK, QE report, attestation key, quote.
func checkSignatures(q *quote.Quote, c *pckChain, r *Verdict) error {
	if !verifyRaw(c.key, q.QEReportRaw, q.QEReportSignature) {
		return verify.Deny(ReasonQEReport, Component, "QE report signature", errors.New("does not verify with the PCK"))
	}
	h := sha256.New()
	h.Write(q.AttestationKey)
	h.Write(q.QEAuthData)
	if want := append(h.Sum(nil), make([]byte, 32)...); !bytes.Equal(q.QEReport.ReportData[:], want) {
		return verify.Mismatch(ReasonQEKey, Component, "QE report data", hex.EncodeToString(q.QEReport.ReportData[:]), hex.EncodeToString(want),
			"attestation key and authentication data of the quote")
	}
	k, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.AttestationKey...))
	if err != nil {
		return verify.Deny(ReasonQuoteSignature, Component, "attestation key", err)
	}
	if !verifyRaw(k, q.Signed, q.Signature) {
		return verify.Deny(ReasonQuoteSignature, Component, "quote signature", errors.New("does not verify with the attestation key"))
	}
	r.Checks = append(r.Checks,
		verify.Check{What: "QE report", Found: "MRSIGNER " + hex.EncodeToString(q.QEReport.MRSigner[:]), Source: "PCK certificate"},
		verify.Check{What: "quote signature", Source: "attestation key in the QE report"})
	return nil
}
