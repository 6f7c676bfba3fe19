package intel

import (
	"testing"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/intel/inteltest"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/verify"
)

func outsideVerifier(t testing.TB, expired bool) *Verifier {
	t.Helper()
	v, err := New(verify.Config{Kind: verify.Production, InsecureExpiredCollateral: expired, Collateral: inteltest.Collateral(t)})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Every signature is right, and the machine was below each level that Intel had
// published that month; go-tdx-guest's own tests say the same of it.
func TestOutsideQuoteBelowAllLevels(t *testing.T) {
	v := outsideVerifier(t, false)
	for range 2 { // the second time from the caches
		_, err := v.VerifyQuote(inteltest.QuoteV4(), quote.TDX, inteltest.DayV4)
		if d, ok := denial.As(err); !ok || d.Reason != ReasonTCBUnsupported || d.Claim != "TCB level of the platform" {
			t.Errorf("got %v", err)
		}
	}
}

// A quote v5 with a TDX 1.5 body; its TCB information is of 2026, the rest of
// the shipped collateral of 2023.
func TestOutsideQuoteV5(t *testing.T) {
	day := inteltest.DayV5
	_, err := outsideVerifier(t, false).VerifyQuote(inteltest.QuoteV5(), quote.TDX, day)
	if d, ok := denial.As(err); !ok || d.Reason != verify.ReasonCollateralExpired {
		t.Errorf("expired collateral: %v", err)
	}
	r, err := outsideVerifier(t, true).VerifyQuote(inteltest.QuoteV5(), quote.TDX, day)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"tcb_status": "UpToDate", "tcb_date": "2024-11-13T00:00:00Z", "collateral_expiration_status": "1", "sgx_type": "Scalable",
		"earliest_issue_date": "2018-05-21T10:45:10Z", "latest_issue_date": "2026-02-01T14:49:26Z", "earliest_expiration_date": "2023-07-08T07:24:59Z",
		"root_key_id":  "46e403bd34f05a3f2817ab9badcaacc7ffc98e0f261008cd30dae936cace18d5dcf58eef31463613de1570d516200993",
		"tcb_eval_num": uint32(15), "is_dynamic_platform": true, "is_cached_keys": true, "is_smt_enabled": true,
		"platform_provider_id": "2734b654f553596897eaadfb5667a954",
	} {
		if r.Claims[name] != want {
			t.Errorf("%s: %v, want %v", name, r.Claims[name], want)
		}
	}
}
