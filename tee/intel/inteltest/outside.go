// Package inteltest gives tests what others made: quotes of machines and what
// Intel published for them, as go-tdx-guest ships it.
//
// Trust zone: tests only.
package inteltest

import (
	"bytes"
	"net/url"
	"strings"
	"testing"
	"time"

	tdxtesting "github.com/google/go-tdx-guest/testing"
	"github.com/google/go-tdx-guest/testing/testdata"

	"github.com/cofferproject/coffer/tee/collateral"
)

// DayV4 is a day on which all collateral of QuoteV4 was valid; DayV5 is one on
// which the TCB information of QuoteV5 was, the rest being older.
var (
	DayV4 = time.Date(2023, 7, 1, 0, 0, 0, 0, time.UTC)
	DayV5 = time.Date(2026, 2, 10, 0, 0, 0, 0, time.UTC)
)

// QuoteV4 is a TDX quote v4 of a machine below every published TCB level.
func QuoteV4() []byte {
	return bytes.TrimSuffix(testdata.RawQuote, []byte("\nextra bytes(only for testing purpose)\n"))
}

// QuoteV5 is a TDX quote v5 with a TDX 1.5 body of a machine that was up to date.
func QuoteV5() []byte { return bytes.Clone(testdata.RawQuoteV5) }

// Collateral is what Intel published for both machines.
func Collateral(t testing.TB) *collateral.Set {
	t.Helper()
	var items []*collateral.Item
	for origin, r := range tdxtesting.TestGetter.Responses {
		it := &collateral.Item{Origin: origin, Body: r.Body, Fetched: DayV4}
		for name, values := range r.Header {
			if strings.HasSuffix(name, "Issuer-Chain") {
				chain, err := url.QueryUnescape(values[0])
				if err != nil {
					t.Fatal(err)
				}
				it.Chain = []byte(chain)
			}
		}
		items = append(items, it)
	}
	return collateral.NewSet(items...)
}
