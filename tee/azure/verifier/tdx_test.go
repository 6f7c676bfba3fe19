package verifier

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/verify"
)

// tdxVector is the evidence of a machine, whose collateral nobody recorded.
func tdxVector(t testing.TB) (*azure.Evidence, *azure.HCL, *quote.Quote) {
	t.Helper()
	e, err := azure.Parse(azure.TDX, vector(t, "az-tdx-evidence-v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	h, err := azure.ParseHCL(e.HCLReport)
	if err != nil {
		t.Fatal(err)
	}
	q, err := quote.Parse(e.TDQuote)
	if err != nil {
		t.Fatal(err)
	}
	return e, h, q
}

// What can be shown of it without collateral: the PCK chain leads to Intel's
// root as far as the missing list, TDREPORT, quote, runtime claims and TPM quote
// bind together.
func TestPublishedTDX(t *testing.T) {
	e, h, q := tdxVector(t)
	v, err := NewTDX(verify.Config{Kind: verify.Production}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	in := verify.Input{Evidence: vector(t, "az-tdx-evidence-v1.json"), InsecureSkipReportData: true, Now: day}
	if _, err := v.Verify(&in); reason(err) != verify.ReasonCollateralMissing {
		t.Errorf("without collateral: %v", err)
	}
	if err := sameTD(h.Hardware, q.TD); err != nil {
		t.Error(err)
	}
	for _, off := range []int{tdReportData, tdReportData + 63, tdTCBInfo, tdTCBInfo + 16, tdTCBInfo + 64, tdTCBInfo + 112, tdInfo, tdInfo + 8, tdInfo + 16, tdInfo + 64, tdInfo + 112, tdInfo + 160, tdInfo + 208, tdInfo + 399} {
		h.Hardware[off] ^= 1
		if err := sameTD(h.Hardware, q.TD); reason(err) != ReasonTDReport {
			t.Errorf("TDREPORT bent at %d: %v", off, err)
		}
		h.Hardware[off] ^= 1
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.AttestationKey...))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(q.Signed)
	if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(q.Signature[:32]), new(big.Int).SetBytes(q.Signature[32:])) {
		t.Error("the quote's signature does not verify")
	}

	// The rest of the way, as after a good quote.
	v.hw = fakeHardware{q.TD.ReportData[:]}
	rs, err := v.Verify(&in)
	if err != nil {
		t.Fatal(err)
	}
	c := rs[0].Claims
	if c["report_data"] != hex.EncodeToString([]byte("challenge")) || !strings.HasPrefix(c["tpm"].(map[string]any)["pcr00"].(string), "782b20b1") ||
		c["init_data"] != strings.Repeat("0", 64) || c["evidence_version"] != 1 || c["hcl_report_unbound"] != true {
		t.Errorf("%v", c)
	}
	in.InsecureSkipReportData, in.ReportData = false, make([]byte, 48)
	if _, err := v.Verify(&in); reason(err) != ReasonReportUnbound {
		t.Errorf("version 1: %v", err)
	}
	e.Version = 2
	if in.Evidence, err = e.Encode(); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(&in); reason(err) != verify.ReasonUnproven {
		t.Errorf("version 2: %v", err)
	}
}
