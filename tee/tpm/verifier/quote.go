package verifier

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"slices"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/tpm"
	"github.com/cofferproject/coffer/tee/tpm/quote"
)

var checker = quote.Checker{
	Component: Component, Malformed: ReasonQuoteMalformed, Signature: ReasonQuoteSignature, Selection: ReasonQuoteSelection, Digest: ReasonQuoteDigest,
}

// requiredPCRs are those that the rules judge: the measured boot's, and the one
// of run-time events.
var requiredPCRs = append(slices.Clone(refvalue.QuotedPCRs), refvalue.PCREvents)

// verifyQuote checks signature, origin, freshness, selection and digest, in
// this order, and fills r.PCRs with the values that the quote covers.
func verifyQuote(e *tpm.Evidence, ak crypto.PublicKey, in Input, r *Result) error {
	if err := checker.VerifySignature(ak, e.Quote.Signature, e.Quote.Message); err != nil {
		return err
	}
	q, err := checker.Parse(e.Quote.Message)
	if err != nil {
		return err
	}
	want := initdata.Fit(in.RuntimeDataHash, tpm.QualifyingSize)
	if in.skipReportData && len(q.ExtraData) == tpm.QualifyingSize {
		want = q.ExtraData
	}
	if !bytes.Equal(q.ExtraData, want) {
		return &denial.Denial{
			Reason: ReasonQuoteReportData, Component: Component, Claim: "report data",
			Measured: hex.EncodeToString(q.ExtraData), Expected: hex.EncodeToString(want),
			Source: "nonce and TEE key of this session",
		}
	}
	// Those that the rules judge must all be there.
	quoted, err := quote.Values(&checker, q, e.Quote.PCRs, requiredPCRs)
	if err != nil {
		return err
	}
	for pcr, v := range quoted {
		r.PCRs[pcr] = v
	}
	r.quoted, r.reportData = quoted, want
	return nil
}
