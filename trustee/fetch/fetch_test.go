package fetch

import (
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/inteltest"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/trustee/fetch/fetchtest"
	"github.com/cofferproject/coffer/trustee/store"
)

// What Intel once published is fetched, with its chains from the headers, and a
// verifier takes it: a quote of a machine gets as far as its TCB level.
func TestIntelsCollateral(t *testing.T) {
	w := newWorld(t)
	f := w.start()
	rootCRL, pckCRL, _, qe := intel.Origins("", 0x81, [6]byte{}, "platform")
	w.until("lists and identity", func() bool { return w.has(rootCRL) && w.has(pckCRL) && w.has(qe) })
	v, err := intel.New(verify.Config{Kind: verify.Production, Collateral: w.shelf})
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.VerifyQuote(inteltest.QuoteV4(), 0x81, w.now())
	d, _ := denial.As(err)
	if d == nil || d.Reason != verify.ReasonCollateralMissing || d.Source != w.tcb {
		t.Fatalf("without TCB information: %v", err)
	}
	f.Missed(&trusteeapi.Record{Kind: "attest", Peer: "192.0.2.1:1"}, d)
	w.until("TCB information", func() bool { return w.has(w.tcb) })
	_, err = v.VerifyQuote(inteltest.QuoteV4(), 0x81, w.now())
	if d, _ := denial.As(err); d == nil || d.Reason != intel.ReasonTCBUnsupported {
		t.Errorf("with all of it: %v", err)
	}
	// It is current, so nobody is asked for it again, not even after a restart.
	w.until("the end of it", func() bool {
		return slices.ContainsFunc(w.rows(), func(d document) bool { return d.Origin == w.tcb && !d.Wanted && d.Next.After(w.now()) })
	})
	n := w.pcs.AskedFor(w.tcb)
	w.start()
	time.Sleep(100 * time.Millisecond)
	if m := w.pcs.AskedFor(w.tcb); n != 1 || m != 1 {
		t.Errorf("asked %d times, then %d", n, m)
	}
	s, err := f.Status(t.Context())
	if err != nil || len(s.Vendors) != 1 || s.Vendors[0].Place != w.pcs.URL+"/" {
		t.Errorf("status: %+v %v", s, err)
	}
}

// A vendor's bad days: nothing comes of them, and nothing is lost by them.
func TestBadDays(t *testing.T) {
	for name, c := range map[string]struct {
		mood    fetchtest.Mood
		after   string
		outcome string
	}{
		"hung": {fetchtest.Hung, "", OutcomeFailed}, "broken": {fetchtest.Broken, "", OutcomeFailed}, "cut": {fetchtest.Interrupted, "", OutcomeFailed},
		"elsewhere": {fetchtest.Elsewhere, "", OutcomeFailed}, "huge": {fetchtest.Huge, "", OutcomeRefused}, "limited": {fetchtest.Limited, "0", OutcomeLimited},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.pcs.Feel(c.mood, c.after)
			w.start(func(c *Config) { c.Timeout = 100 * time.Millisecond })
			w.until(c.outcome, func() bool { return w.count(c.outcome) >= 2 })
			if n := len(w.shelf.List()); n != 0 {
				t.Errorf("%d items at hand", n)
			}
			for _, r := range w.pcs.Asked() {
				if strings.Contains(r.Path, "elsewhere") {
					t.Error("a redirection was followed")
				}
			}
			w.pcs.Feel(fetchtest.Well, "")
			w.until("the next good day", func() bool { return w.has(intel.RootCRLOrigin()) })
		})
	}
}

// After 429 nobody asks until the vendor said so, not even after a restart.
func TestRetryAfter(t *testing.T) {
	w := newWorld(t)
	w.pcs.Feel(fetchtest.Limited, "3600")
	w.start()
	w.until("429", func() bool { return w.count(OutcomeLimited) == 1 })
	w.pcs.Feel(fetchtest.Well, "")
	f := w.start()
	time.Sleep(200 * time.Millisecond)
	if n := len(w.pcs.Asked()); n != 1 {
		t.Errorf("asked %d times", n)
	}
	w.pass(59 * time.Minute)
	missed(f, w.tcb, "192.0.2.1:1") // wakes it
	time.Sleep(100 * time.Millisecond)
	if n := len(w.pcs.Asked()); n != 1 {
		t.Errorf("asked %d times within the hour", n)
	}
	w.pass(2 * time.Minute)
	f.wakeAll()
	w.until("an hour later", func() bool { return len(w.pcs.Asked()) > 1 })
}

// Documents that nobody may believe are not kept, and do not replace what is.
func TestUnbelievable(t *testing.T) {
	for name, spoil := range map[string]func(w *world, it collateral.Item) *collateral.Item{
		"another signature": func(_ *world, it collateral.Item) *collateral.Item {
			it.Body = slices.Clone(it.Body)
			it.Body[len(it.Body)-3] ^= 1 // a digit of it
			return &it
		},
		"no chain": func(_ *world, it collateral.Item) *collateral.Item { it.Chain = nil; return &it },
		"another platform's": func(w *world, it collateral.Item) *collateral.Item {
			for _, o := range w.real.Items() {
				if _, _, err := intel.ParseTCBInfoOrigin(o.Origin); err == nil && o.Origin != it.Origin {
					it.Body, it.Chain = o.Body, o.Chain
				}
			}
			return &it
		},
		"no document": func(_ *world, it collateral.Item) *collateral.Item { it.Body = []byte("<html>"); return &it },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			it, _ := w.real.Get(w.tcb)
			w.pcs.Publish(spoil(w, *it), chainHeader(w.tcb))
			f := w.start()
			missed(f, w.tcb, "192.0.2.1:1")
			w.until("a refusal", func() bool {
				return slices.ContainsFunc(w.rows(), func(d document) bool { return d.Origin == w.tcb && d.Outcome == OutcomeRefused && d.Error != "" })
			})
			if w.has(w.tcb) {
				t.Error("it is kept")
			}
		})
	}
}

// An expired document is refused, and one at hand that has expired shows.
func TestStale(t *testing.T) {
	w := newWorld(t)
	f := w.start(func(c *Config) { c.Refresh = 50 * time.Millisecond })
	w.until("the root's list", func() bool { return w.has(intel.RootCRLOrigin()) })
	if n := f.Late(); n != 0 {
		t.Errorf("%d late on the day", n)
	}
	w.pass(5 * 365 * 24 * time.Hour)
	w.until("what is late", func() bool { return f.Late() > 0 })
	refused := w.count(OutcomeRefused)
	w.until("a refusal of what is late", func() bool { return w.count(OutcomeRefused) > refused })
	if !w.has(intel.RootCRLOrigin()) {
		t.Error("what was at hand is lost")
	}
	s, err := f.Status(t.Context())
	if err != nil || !slices.ContainsFunc(s.Items, func(i trusteeapi.CollateralState) bool { return i.Expired && !i.Until.IsZero() }) {
		t.Errorf("status: %+v, %v", s, err)
	}
}

// Three replicas ask one at a time, at one pace together.
func TestReplicasTakeTurns(t *testing.T) {
	w := newWorld(t)
	const pace = 60 * time.Millisecond
	for range 3 {
		w.start(func(c *Config) { c.Pace, c.Shelf = pace, w.open() })
	}
	w.until("requests", func() bool { return len(w.pcs.Asked()) >= 5 })
	asked := w.pcs.Asked()
	if n := w.pcs.MostAtOnce(); n != 1 {
		t.Errorf("%d requests at once", n)
	}
	for i := 1; i < len(asked); i++ {
		if d := asked[i].At.Sub(asked[i-1].At); d < pace*9/10 {
			t.Errorf("%s between requests %d and %d", d, i, i+1)
		}
	}
}

// A replica that died with the lease is missed for as long as that lasts.
func TestLeaseEnds(t *testing.T) {
	w := newWorld(t)
	if err := w.store.Update(t.Context(), func(tx store.Tx) error {
		return store.PutJSON(tx, leases, "intel", &lease{Holder: "another", Until: w.now().Add(time.Minute)})
	}); err != nil {
		t.Fatal(err)
	}
	f := w.start()
	time.Sleep(100 * time.Millisecond)
	if n := len(w.pcs.Asked()); n != 0 {
		t.Errorf("%d requests beside another's", n)
	}
	w.pass(2 * time.Minute)
	missed(f, w.tcb, "192.0.2.1:1") // wakes it
	w.until("the lease", func() bool { return w.has(w.tcb) })
}

// What was put off by a clock that was far ahead is not put off for years.
func TestClockThatWasAhead(t *testing.T) {
	w := newWorld(t)
	w.pass(365 * 24 * time.Hour)
	w.pcs.Feel(fetchtest.Limited, "86400")
	stop := w.startUntil()
	w.until("429", func() bool { return w.count(OutcomeLimited) > 0 })
	stop()
	w.pass(-365 * 24 * time.Hour)
	w.pcs.Feel(fetchtest.Well, "")
	w.start()
	w.until("a list", func() bool { return w.has(intel.RootCRLOrigin()) })
}

// What peers can cause is bounded, and no origin of theirs goes anywhere else.
func TestWantsAreBounded(t *testing.T) {
	w := newWorld(t)
	w.pcs.Feel(fetchtest.Limited, "3600")
	f := w.start()
	w.until("429", func() bool { return w.count(OutcomeLimited) == 1 })
	origin := func(i int) string {
		_, _, tcb, _ := intel.Origins("", 0x81, [6]byte{1, byte(i >> 8), byte(i)}, "platform")
		return tcb
	}
	for _, o := range []string{
		"https://192.0.2.9/tcb?fmspc=000000000000", "file:///etc/passwd", w.tcb + "&x=y", strings.ToUpper(w.tcb), intel.PCS + "/../x", "",
		"https://kdsintf.amd.com/vcek/v1/Milan/crl",
	} {
		missed(f, o, "192.0.2.1:1")
	}
	for i := range 10 * peerBurst {
		missed(f, origin(i), "192.0.2.2:1")
	}
	missed(f, origin(500), "192.0.2.3:1")
	wanted := func() (out []document) {
		for _, d := range w.rows() {
			if d.Wanted {
				out = append(out, d)
			}
		}
		return out
	}
	w.until("another's want", func() bool {
		return slices.ContainsFunc(wanted(), func(d document) bool { return d.Origin == origin(500) })
	})
	if n := len(wanted()); n > peerBurst+2 {
		t.Errorf("%d wants", n)
	}
	for _, d := range wanted() {
		if !strings.HasPrefix(d.Origin, intel.PCS+"/tdx/certification/v4/tcb?fmspc=01") {
			t.Errorf("wanted: %s", d.Origin)
		}
	}
	// The bounds of the store, beyond the rates.
	if err := w.store.Update(t.Context(), func(tx store.Tx) error {
		for i := range maxWanted - 60 {
			d := document{Origin: origin(1000 + i), Wanted: true, Group: origin(1000 + i), Peer: fmt.Sprint(i % 64), Since: w.now()}
			if err := store.PutJSON(tx, documents, d.Origin, &d); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		taken, err := f.want(t.Context(), want{origin: origin(3000 + i), group: origin(3000 + i), peer: fmt.Sprint(i % 3)})
		if err != nil || taken && i >= 80 {
			t.Fatalf("want %d: %t, %v", i, taken, err)
		}
	}
	of := map[string]int{}
	for _, d := range wanted() {
		of[d.Peer]++
	}
	if n := len(wanted()); n > maxWanted {
		t.Errorf("%d wants, at most %d", n, maxWanted)
	}
	for p, n := range of {
		if n > maxOfPeer {
			t.Errorf("%d wants of %s", n, p)
		}
	}
	// They are forgotten.
	w.pass(forget + time.Hour)
	w.pcs.Feel(fetchtest.Well, "")
	missed(f, w.tcb, "192.0.2.4:1")
	w.until("an end of old wants", func() bool { return len(wanted()) < 2 })
}

// What a vendor did not know is asked for again, later and later, or when an
// administrator says so.
func TestAbsent(t *testing.T) {
	w := newWorld(t)
	f := w.start()
	_, _, o, _ := intel.Origins("", 0x81, [6]byte{3}, "platform")
	missed(f, o, "192.0.2.1:1")
	w.until("404", func() bool {
		return slices.ContainsFunc(w.rows(), func(d document) bool { return d.Origin == o && d.Outcome == OutcomeAbsent })
	})
	w.pass(3 * time.Minute)
	missed(f, o, "192.0.2.1:1")
	f.wakeAll()
	time.Sleep(100 * time.Millisecond)
	if n := w.pcs.AskedFor(o); n != 1 {
		t.Errorf("asked %d times in three minutes", n)
	}
	if err := f.Want(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	w.until("a second 404", func() bool { return w.pcs.AskedFor(o) == 2 })
	w.until("its end", func() bool {
		return slices.ContainsFunc(w.rows(), func(d document) bool { return d.Origin == o && d.Failures == 2 })
	})
	w.pass(13 * time.Minute)
	f.wakeAll()
	w.until("a third", func() bool { return w.pcs.AskedFor(o) == 3 })
}

// Of wants, peers are served in turn: one who wants much keeps nobody waiting.
func TestFewDocumentsOfOneChip(t *testing.T) {
	w := newWorld(t)
	f, err := New(w.config())
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	for i := range maxOfGroup + 5 {
		_, _, o, _ := intel.Origins("", 0x81, [6]byte{2, byte(i)}, "platform")
		ok, err := f.want(t.Context(), want{origin: o, group: "one chip", peer: fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			taken++
		}
	}
	if taken != maxOfGroup {
		t.Errorf("%d taken, want %d", taken, maxOfGroup)
	}
}

func TestPeersInTurn(t *testing.T) {
	var rows []document
	for i := range 500 {
		rows = append(rows, document{Origin: "flood", Peer: "a", Since: time.Unix(int64(i), 0)})
	}
	rows = append(rows, document{Origin: "one", Peer: "b", Since: time.Unix(1000, 0)})
	n := 0
	for range 200 {
		if next(rows).Origin == "one" {
			n++
		}
	}
	if n < 50 || n > 150 {
		t.Errorf("%d of 200 turns", n)
	}
}

// Through a proxy that is named, and with certificates of an authority that is.
func TestProxyAndCA(t *testing.T) {
	w := newWorld(t)
	f := w.start(func(c *Config) {
		c.URLs, c.Proxy = map[string]string{"intel": "http://localhost:1/pcs"}, w.pcs.URL
	})
	w.until("a request to the proxy", func() bool {
		return slices.ContainsFunc(w.pcs.Asked(), func(r fetchtest.Request) bool { return strings.HasPrefix(r.Path, "/pcs/sgx/") })
	})
	if s, err := f.Status(t.Context()); err != nil || s.Vendors[0].Place != "http://localhost:1/pcs/" {
		t.Errorf("%+v, %v", s, err)
	}

	w = newWorld(t)
	s := httptest.NewUnstartedServer(w.pcs)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := w.startUntil(func(c *Config) { c.URLs = map[string]string{"intel": s.URL} })
	w.until("an unknown authority", func() bool { return w.count(OutcomeFailed) > 0 })
	if n := len(w.pcs.Asked()); n > 0 {
		t.Errorf("%d requests to whom nobody vouches for", n)
	}
	stop()
	w.start(func(c *Config) { c.URLs, c.CAFile = map[string]string{"intel": s.URL}, file })
	w.until("a list", func() bool { return w.has(intel.RootCRLOrigin()) })
}

// A document that was imported from a clock ahead is not replaced, and that shows.
func TestFetchedLater(t *testing.T) {
	w := newWorld(t)
	old, _ := w.real.Get(intel.RootCRLOrigin())
	it := *old
	it.Fetched = w.now().Add(30 * time.Minute)
	it.Body = []byte("what cannot be read")
	b, err := collateral.NewSet(&it).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.shelf.Import(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	f := w.start()
	w.until("a refusal", func() bool { return w.count(OutcomeRefused) > 0 })
	w.pass(time.Hour)
	w.until("it is replaced", func() bool {
		have, ok := w.shelf.Get(intel.RootCRLOrigin())
		return ok && len(have.Body) > 100
	})
	if s, err := f.Status(t.Context()); err != nil || len(s.Items) < 5 {
		t.Errorf("%+v, %v", s, err)
	}
}

// A check that fails by its own fault refuses a document and ends nothing.
func TestCheckThatPanics(t *testing.T) {
	v := &vendor{check: func(*collateral.Item) (collateral.Validity, error) { panic("a parser's fault") }}
	if _, err := v.verify(&collateral.Item{}); err == nil || !strings.Contains(err.Error(), "a parser's fault") {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	w := newWorld(t)
	for name, o := range map[string]Options{
		"a vendor that is none":      {Vendors: []string{"acme"}},
		"a vendor twice":             {Vendors: []string{"amd", "amd"}},
		"a place and no vendor":      {URLs: map[string]string{"amd": "https://kds.example/"}},
		"a place without TLS":        {Vendors: []string{"amd"}, URLs: map[string]string{"amd": "http://kds.example/"}},
		"a place with a password":    {Vendors: []string{"amd"}, URLs: map[string]string{"amd": "https://a:b@kds.example/"}},
		"a place that is a file":     {Vendors: []string{"amd"}, URLs: map[string]string{"amd": "file:///etc/passwd"}},
		"a proxy that is none":       {Vendors: []string{"amd"}, Proxy: "socks"},
		"a proxy and no vendor":      {Proxy: "http://proxy:3128"},
		"a CA that is not there":     {Vendors: []string{"amd"}, CAFile: "/nowhere"},
		"a time that is negative":    {Vendors: []string{"amd"}, Pace: -1},
		"a timeout that is negative": {Vendors: []string{"amd"}, Timeout: -1},
	} {
		if _, err := New(w.config(func(c *Config) { c.Options = o })); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := New(w.config(func(c *Config) { c.Options = Options{} })); err != nil {
		t.Error(err)
	}
}

func TestRetryAfterHeader(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"": 0, "x": 0, "-5": 0, "30": 30 * time.Second, "999999999": maxRetryAfter, now.Add(time.Minute).Format(http.TimeFormat): time.Minute,
		now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(s, now); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}
