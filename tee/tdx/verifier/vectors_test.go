package verifier

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
)

func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "tdx"), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pckOf reads the platform's facts from a quote's PCK certificate.
func pckOf(t testing.TB, q *quote.Quote) *intel.PCK {
	t.Helper()
	certs, err := intel.ParseChain(q.CertData)
	if err != nil {
		t.Fatal(err)
	}
	p, err := intel.ParsePCK(certs[0])
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The log behind the expected claims is not among the vectors; it is put
// together again from them, and replays to the registers that are known of it.
func expectedLog(t *testing.T, events []eventlog.Description) *eventlog.Log {
	t.Helper()
	b := eventlog.SpecHeader(eventlog.SHA384)
	for _, d := range events {
		data, err := base64.StdEncoding.DecodeString(d.Event)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := hex.DecodeString(d.Digests[0].Digest)
		if err != nil {
			t.Fatal(err)
		}
		typ := map[string]refvalue.EventType{
			"EV_PLATFORM_CONFIG_FLAGS": refvalue.PlatformConfigFlags, "EV_SEPARATOR": refvalue.Separator,
			"EV_EFI_PLATFORM_FIRMWARE_BLOB2": refvalue.EFIPlatformFirmwareBlob2,
		}[d.TypeName]
		e := eventlog.Event{Register: d.Index, Type: typ, Data: data, Digests: []eventlog.Digest{{Algorithm: eventlog.SHA384, Sum: sum}}}
		b = e.Append(b)
	}
	l, err := eventlog.ParseCC(b)
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.ReplayRTMRs(eventlog.SHA384)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"2dc71230", "0fa3be56", "00000000", "00000000"} {
		if s := hex.EncodeToString(r[i]); !strings.HasPrefix(s, want) {
			t.Errorf("RTMR %d replays to %s, want %s...", i, s, want)
		}
	}
	return l
}

func TestPublishedClaims(t *testing.T) {
	var want map[string]any
	b := vector(t, "parse_tdx_claims_expected.json")
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	var events struct {
		Log []eventlog.Description `json:"uefi_event_logs"`
	}
	if err := json.Unmarshal(b, &events); err != nil {
		t.Fatal(err)
	}
	q, err := quote.Parse(vector(t, "tdx_quote_4.dat"))
	if err != nil {
		t.Fatal(err)
	}
	c := Claims(q, expectedLog(t, events.Log))
	c["platform_instance_id"] = pckOf(t, q).PlatformInstanceID()
	if b, err = json.Marshal(c); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("claims differ:\n%.3000s", b)
	}
}

func TestClaimsV5(t *testing.T) {
	q, err := quote.Parse(vector(t, "tdx_quote_5.dat"))
	if err != nil {
		t.Fatal(err)
	}
	c := Claims(q, nil)["quote"].(map[string]any)
	body, header := c["body"].(map[string]any), c["header"].(map[string]any)
	for _, s := range []struct{ got, want any }{
		{c["type"], "0300"}, {c["size"], "88020000"}, {header["version"], "0500"}, {header["tee_type"], "81000000"},
		{body["mr_servicetd"], "383c87d3bbb047b2d171eaca95312ede99f258088dc788f6ae2ccf8b6dd848fe8d47629e08b3f6cbd4a00dd47a5a033d"}, {len(body["tee_tcb_svn2"].(string)), 32},
	} {
		if s.got != s.want {
			t.Errorf("got %v, want %v", s.got, s.want)
		}
	}
}

// The vectors come without collateral: what verifies without it does (package
// intel tests that), and then the first thing that is missing is named.
func TestVectorsNeedCollateral(t *testing.T) {
	v, err := New(verify.Config{Kind: verify.Production})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tdx_quote_4.dat", "tdx_quote_5.dat"} {
		_, err := v.Verify(input(t, vector(t, name), nil, ""))
		if d, ok := denial.As(err); !ok || d.Reason != verify.ReasonCollateralMissing || d.Source != "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A machine's log and its quote, both shipped with go-tdx-guest.
func TestOutsideEventLog(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/go-tdx-guest").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "testing", "testdata", "ccel")
	raw, err := os.ReadFile(filepath.Join(dir, "cos-113-tdx-quote.dat"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(dir, "ccel_data.dat"))
	if err != nil {
		t.Fatal(err)
	}
	q, err := quote.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	l, err := checkEventLog(log, q.TD, new(verify.Result))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d events", len(l.Events))
	td := *q.TD
	td.RTMR[1][0] ^= 1
	if _, err := checkEventLog(log, &td, new(verify.Result)); !denied(err, ReasonEventLogMismatch) {
		t.Errorf("another RTMR: %v", err)
	}
	bent := bytes.Clone(log)
	bent[200] ^= 1
	if _, err := checkEventLog(bent, q.TD, new(verify.Result)); !denied(err, ReasonEventLogMismatch) && !denied(err, ReasonEventLogMalformed) {
		t.Errorf("a bent log: %v", err)
	}
}

func denied(err error, r denial.Reason) bool {
	d, ok := denial.As(err)
	return ok && d.Reason == r
}
