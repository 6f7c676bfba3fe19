package server

import (
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/tpm/attester"
	"github.com/cofferproject/coffer/tee/tpm/device"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
	"github.com/cofferproject/coffer/trustee/fetch"
	"github.com/cofferproject/coffer/trustee/fetch/fetchtest"
)

// TestTPMMakersListIsFetched: a list that a genuine endorsement certificate names is
// got in the background, whatever became of the attestation that missed it, and decides
// about the next; of simulated TPMs nothing is asked for.
func TestTPMMakersListIsFetched(t *testing.T) {
	maker := fetchtest.New(t)
	w := newWorld(t, func(c *Config) {
		c.Fetch = fetch.Options{
			Vendors: []string{"tpm"}, URLs: map[string]string{"tpm": maker.URL}, TPMHosts: []string{"maker.example"}, Pace: 10 * time.Millisecond, Retry: 50 * time.Millisecond,
			Timeout: time.Second,
		}
	})
	ca := tpmtest.NewCA(t, "maker")
	ca.ListURL = "http://maker.example/ek.crl"
	doc := document(t, "pod a")
	toy := tpmtest.NewCA(t, "toys")
	toy.ListURL = "http://maker.example/toys.crl"
	w.registerTPM("sim", toy)
	s := w.boot("sim", toy, doc, nil)
	s.begin()
	if a := s.attest(s.evidence(), doc); a.status != 200 {
		t.Fatalf("simulated: %d %s", a.status, a.body)
	}

	w.registerTPM("default", ca)
	conn := tpmtest.Start(t)
	ca.Provision(t, conn, 0)
	log := tpmtest.Boot(t, conn, tpmtest.Events())
	if err := device.BindInitdata(conn, sha256.Sum256(doc)); err != nil {
		t.Fatal(err)
	}
	accept := func(attester.Vendor) (string, bool) { return "", true } // it plays a genuine one
	att, err := attester.New(conn, attester.Options{EventLogPath: log, AcceptSoftware: accept})
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{w.client("default"), att, doc}
	list := ca.List(t, time.Now(), ca.Last)
	maker.PublishAt("/"+strings.TrimPrefix(list.Origin, "https://"), list.Body)
	attest := func() *answer {
		g.begin()
		return g.attest(g.evidence(), doc)
	}
	if a := attest(); a.err.Reason == "tpm-ek-revoked" {
		t.Fatal("the list is at hand already: the test is broken")
	}
	for end := time.Now().Add(10 * time.Second); maker.AskedFor("https://x/maker.example/ek.crl") == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not asked for; %+v", w.collateralStatus())
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		a := attest()
		if a.err.Reason == "tpm-ek-revoked" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d %s; %+v", a.status, a.body, w.collateralStatus())
		}
	}
	for _, r := range maker.Asked() {
		if strings.Contains(r.Path, "toys") {
			t.Errorf("the maker was asked about a toy: %s", r.Path)
		}
	}
}
