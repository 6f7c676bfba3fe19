package server

import (
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
)

// A maker's revocation list that the administrator imports decides about the
// endorsement key at the next attestation; where the owner asks for one, its
// absence does as well.
func TestRevokedEndorsementKey(t *testing.T) {
	w := newWorld(t)
	ca := tpmtest.NewCA(t, "maker")
	ca.ListURL = "http://maker.example/ek.crl"
	doc := document(t, "pod a")
	w.bindSecret("sim", secretName, "toy", doc)
	w.registerTPM("sim", ca)
	g := w.boot("sim", ca, doc, nil)
	serial := ca.Last
	secret := func() *answer {
		t.Helper()
		g.newKey()
		g.begin()
		if a := g.attest(g.evidence(), doc); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return g.get(secretName)
	}
	imports := func(it *collateral.Item) {
		t.Helper()
		b, err := collateral.NewSet(it).Encode()
		if err != nil {
			t.Fatal(err)
		}
		if status, a := w.admin.do("POST", "/collateral", b); status != 200 {
			t.Fatalf("%d %s", status, a)
		}
	}
	if a := secret(); a.status != 200 {
		t.Fatalf("no list known, none asked for: %d %s", a.status, a.body)
	}
	ask := &refvalue.Bundle{Version: 1, Provenance: refvalue.Provenance{Tool: "test"}, Sets: []refvalue.Set{}}
	ask.AddValues("tpm_ek_crl", "good")
	w.admin.must("PUT", "/namespaces/sim/reference-values/lists", ask)
	a := secret()
	denied(t, w, a, 403, "status-unacceptable")
	if d := w.admin.record(a.err.Record).Denial; d.Claim == "" || d.Expected == "" {
		t.Errorf("the owner is not told: %+v", d)
	}
	imports(ca.List(t, time.Now()))
	if a := secret(); a.status != 200 {
		t.Fatalf("the list speaks well of it: %d %s", a.status, a.body)
	}
	imports(ca.List(t, time.Now().Add(time.Second), serial))
	g.begin()
	denied(t, w, g.attest(g.evidence(), doc), 403, "tpm-ek-revoked")
}
