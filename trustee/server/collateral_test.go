package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel/inteltest"
	"github.com/cofferproject/coffer/tee/snp"
	snpverifier "github.com/cofferproject/coffer/tee/snp/verifier"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
	"github.com/cofferproject/coffer/trustee/fetch"
	"github.com/cofferproject/coffer/trustee/fetch/fetchtest"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// snpWithoutSession takes recorded evidence, which is of another session and from before
// anybody kept revocation lists. What a certificate is, it judges as always.
func snpWithoutSession(t *tenant.Trust, c collateral.Source) (verify.Verifier, error) {
	v, err := snpverifier.New(verify.Config{Kind: verify.Production, Collateral: c, InsecureSkipRevocation: true})
	return recordedVerifier{v}, err
}

type recordedVerifier struct{ verify.Verifier }

func (r recordedVerifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	old := *in
	old.InsecureSkipReportData = true
	return r.Verifier.Verify(&old)
}

// withoutVCEK gives a machine's evidence without the certificate that came with
// it, and that as AMD publishes it.
func withoutVCEK(t testing.TB) (evidence json.RawMessage, vcek *collateral.Item) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "as"), "evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	e, err := snp.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range e.Certs {
		if c.Type == snp.CertVCEK {
			vcek = &collateral.Item{Origin: snpverifier.VCEKOrigin(snpverifier.Genoa, e.Report.ChipID, e.Report.ReportedTCB), Body: c.Data, Fetched: time.Now()}
		}
	}
	e.Certs = nil
	if evidence, err = e.Encode(); err != nil {
		t.Fatal(err)
	}
	return evidence, vcek
}

func fetching(kds *fetchtest.Vendor) func(*Config) {
	return func(c *Config) {
		c.Verifiers["snp"] = snpWithoutSession
		c.Verifiers[fakeTEE] = fakeFactory
		c.Fetch = fetch.Options{
			Vendors: []string{"amd"}, URLs: map[string]string{"amd": kds.URL}, Pace: 10 * time.Millisecond, Retry: 50 * time.Millisecond, Timeout: time.Second,
		}
		c.Operations.Listen = "127.0.0.1:0"
	}
}

func (w *world) collateralStatus() *trusteeapi.CollateralStatus {
	w.t.Helper()
	status, b := w.admin.do("GET", "/collateral/status", nil)
	out := new(trusteeapi.CollateralStatus)
	if err := json.Unmarshal(b, out); err != nil || status != 200 {
		w.t.Fatalf("status: %d %s", status, b)
	}
	return out
}

// A guest whose host gave it no certificate is denied at once, and let in when it
// comes again, without a request that ever waited for AMD.
func TestMissingVCEKIsFetched(t *testing.T) {
	evidence, vcek := withoutVCEK(t)
	kds := fetchtest.New(t)
	kds.Publish(vcek, "")
	w := newWorld(t, fetching(kds))
	attest := func() *answer {
		_, a := w.attestAs("default", "snp", nil, func([]byte) any { return evidence })
		return a
	}
	a := attest()
	denied(t, w, a, 403, "collateral-missing")
	if s := a.header.Get("Retry-After"); s != "1" {
		t.Errorf("Retry-After %q", s)
	}
	for end := time.Now().Add(10 * time.Second); a.status != 200; a = attest() {
		if time.Now().After(end) {
			t.Fatalf("still denied: %s; %+v", a.body, w.collateralStatus())
		}
		time.Sleep(50 * time.Millisecond)
	}
	if n := kds.AskedFor(vcek.Origin); n != 1 {
		t.Errorf("asked for the certificate %d times", n)
	}
	for _, s := range w.collateralStatus().Wanted {
		t.Errorf("still wanted: %+v", s)
	}

	// It is in the bundle that goes to a trustee without a network, and survives a
	// restart without AMD.
	status, bundle := w.admin.do("GET", "/collateral/bundle", nil)
	if set, err := collateral.Parse(bundle); err != nil || status != 200 || len(set.Items()) != 1 || set.Items()[0].Origin != vcek.Origin {
		t.Fatalf("bundle: %d %v %.200s", status, err, bundle)
	}
	kds.Feel(fetchtest.Hung, "")
	w.stop()
	w.start()
	if a := attest(); a.status != 200 {
		t.Errorf("after a restart: %d %s", a.status, a.body)
	}
	alone := newWorld(t, func(c *Config) { c.Verifiers["snp"] = snpWithoutSession })
	_, a = alone.attestAs("default", "snp", nil, func([]byte) any { return evidence })
	denied(t, alone, a, 403, "collateral-missing")
	if s := a.header.Get("Retry-After"); s != "" {
		t.Errorf("Retry-After %q, and nothing is fetched", s)
	}
	if status, b := alone.admin.do("POST", "/collateral", bundle); status != 200 {
		t.Fatalf("import: %d %s", status, b)
	}
	if _, a = alone.attestAs("default", "snp", nil, func([]byte) any { return evidence }); a.status != 200 {
		t.Errorf("imported: %d %s", a.status, a.body)
	}
}

// A vendor that never answers keeps nobody waiting: neither those that it matters
// to, nor others, nor the end of the server.
func TestHungVendor(t *testing.T) {
	evidence, _ := withoutVCEK(t)
	kds := fetchtest.New(t)
	kds.Feel(fetchtest.Hung, "")
	w := newWorld(t, fetching(kds), func(c *Config) { c.Fetch.Timeout = time.Hour })
	doc := document(t, "pod")
	w.bindSecret("default", secretName, "toy", doc)
	for end := time.Now().Add(10 * time.Second); len(kds.Asked()) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody asks the vendor")
		}
	}
	began := time.Now()
	for range 5 {
		_, a := w.attestAs("default", "snp", nil, func([]byte) any { return evidence })
		denied(t, w, a, 403, "collateral-missing")
		c := w.client("default")
		c.handshake(doc)
		if a := c.get(secretName); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	if s := w.collateralStatus(); len(s.Wanted) != 1 || s.Wanted[0].Vendor != "amd" {
		t.Errorf("wanted: %+v", s.Wanted)
	}
	if n := kds.MostAtOnce(); n != 1 {
		t.Errorf("%d requests to the vendor at once", n)
	}
	w.stop()
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("all that took %s", d)
	}
}

// What is out of date shows where operators look, and leaves the server ready.
func TestStaleCollateralShows(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Operations.Listen = "127.0.0.1:0" })
	bundle, err := inteltest.Collateral(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if status, b := w.admin.do("POST", "/collateral", bundle); status != 200 {
		t.Fatalf("import: %d %s", status, b)
	}
	get := func(path string) string {
		t.Helper()
		resp, err := http.Get(w.s.OpsURL() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: %d %s %v", path, resp.StatusCode, b, err)
		}
		return string(b)
	}
	w.stop()
	w.start() // it looks once at the start
	const line = "ready\ncollateral: 5 documents are out of date\n"
	for end := time.Now().Add(10 * time.Second); get("/readyz") != line; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q, want %q", get("/readyz"), line)
		}
	}
	if m := get("/metrics"); !strings.Contains(m, "\ncoffer_trustee_collateral_stale 5\n") {
		t.Error("no metric of it")
	}
	s := w.collateralStatus()
	if len(s.Vendors) != 0 || len(s.Items) != 5 {
		t.Fatalf("%+v", s)
	}
	for _, i := range s.Items {
		if !i.Expired || i.Vendor != "intel" || i.Until.IsZero() {
			t.Errorf("%+v", i)
		}
	}
}

// An administrator has a certificate fetched for a chip that has not attested here.
func TestWantedCollateral(t *testing.T) {
	evidence, vcek := withoutVCEK(t)
	kds := fetchtest.New(t)
	kds.Publish(vcek, "")
	w := newWorld(t, fetching(kds))
	want := func(origin string) int {
		status, _ := w.admin.do("POST", "/collateral/wanted", fmt.Appendf(nil, `{"origins":[%q]}`, origin))
		return status
	}
	for _, o := range []string{"https://192.0.2.1/", "https://kdsintf.amd.com/vcek/v1/Genoa/crl", "https://api.trustedservices.intel.com/tdx/certification/v4/tcb?fmspc=000000000000"} {
		if s := want(o); s != 400 {
			t.Errorf("%s: %d", o, s)
		}
	}
	if s := want(vcek.Origin); s != 200 {
		t.Fatalf("status %d", s)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, ok := w.s.shelf.Get(vcek.Origin); ok {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not fetched: %+v", w.collateralStatus())
		}
	}
	if s := want(vcek.Origin); s != 200 {
		t.Errorf("what is at hand: %d", s)
	}
	if _, a := w.attestAs("default", "snp", nil, func([]byte) any { return evidence }); a.status != 200 {
		t.Errorf("its first attestation: %d %s", a.status, a.body)
	}
}

// Replicas share one database: what a guest misses at one is fetched by whichever
// has the lease, once, and is at hand at both.
func TestReplicasShareCollateral(t *testing.T) {
	evidence, vcek := withoutVCEK(t)
	kds := fetchtest.New(t)
	kds.Publish(vcek, "")
	pg := pgtest.Start(t)
	db, key := pg.Database("trustee"), filepath.Join(t.TempDir(), "envelope.key")
	if _, err := keyring.CreateFileKEK(key); err != nil {
		t.Fatal(err)
	}
	shared := func(c *Config) { c.Database, c.EnvelopeKey = db, key }
	first := newWorld(t, fetching(kds), shared)
	cfg := first.cfg
	cfg.State = t.TempDir()
	other, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close(context.Background()) })
	second := &world{t: t, s: other, clock: first.clock, cfg: cfg, admin: first.admin}
	for _, w := range []*world{first, second} {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			if _, a := w.attestAs("default", "snp", nil, func([]byte) any { return evidence }); a.status == 200 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("still denied: %+v", first.collateralStatus())
			}
		}
	}
	if n := kds.AskedFor(vcek.Origin); n != 1 {
		t.Errorf("asked for the certificate %d times", n)
	}
	if n := kds.MostAtOnce(); n != 1 {
		t.Errorf("%d requests at once", n)
	}
}
