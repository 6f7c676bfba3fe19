package server

import (
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/tpm/attester"
	"github.com/cofferproject/coffer/tee/tpm/device"
	"github.com/cofferproject/coffer/tee/tpm/sim"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
)

// guest is a booted machine with a software TPM, attesting over the wire.
type guest struct {
	*rcar
	att *attester.Attester
	doc []byte
}

func (w *world) boot(ns string, ca *tpmtest.CA, doc []byte, mutate func([]refvalue.Event) []refvalue.Event) *guest {
	w.t.Helper()
	conn := tpmtest.Start(w.t)
	ca.Provision(w.t, conn, 0)
	ev := tpmtest.Events()
	if mutate != nil {
		ev = mutate(ev)
	}
	log := tpmtest.Boot(w.t, conn, ev)
	if err := device.BindInitdata(conn, sha256.Sum256(doc)); err != nil {
		w.t.Fatal(err)
	}
	att, err := sim.New(conn, attester.Options{EventLogPath: log})
	if err != nil {
		w.t.Fatal(err)
	}
	return &guest{w.client(ns), att, doc}
}

func (g *guest) begin() *answer {
	g.t.Helper()
	extra, err := json.Marshal(g.att.RequestExtra())
	if err != nil {
		g.t.Fatal(err)
	}
	return g.auth("tpm", string(extra))
}

// evidence answers the challenge of this session.
func (g *guest) evidence() string {
	g.t.Helper()
	var x struct {
		Hash string `json:"selected-hash-algorithm"`
		TPM  *kbs.TPMChallenge
	}
	if err := json.Unmarshal(g.extra, &x); err != nil || x.TPM == nil || x.Hash != "sha256" {
		g.t.Fatalf("challenge %s: %v", g.extra, err)
	}
	rd := sha256.Sum256([]byte(g.runtimeData()))
	e, err := g.att.Evidence(g.t.Context(), rd[:], x.TPM)
	if err != nil {
		g.t.Fatal(err)
	}
	return string(e)
}

func (w *world) registerTPM(ns string, ca *tpmtest.CA) {
	w.t.Helper()
	p := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Root.Raw}))
	w.admin.must("POST", "/namespaces/"+ns+"/ek-roots", trusteeapi.EKRoot{Certificate: p})
	w.admin.must("PUT", "/namespaces/"+ns+"/reference-values/build", tpmtest.References())
}

func TestSoftwareTPM(t *testing.T) {
	w := newWorld(t)
	ca := tpmtest.NewCA(t, "machine")
	doc, other := document(t, "pod a"), document(t, "pod b")
	w.bindSecret("sim", secretName, "toy", doc)

	// What the namespace trusts is taken up without a restart.
	g := w.boot("sim", ca, doc, nil)
	if a := g.begin(); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	denied(t, w, g.attest(g.evidence(), doc), 403, "tpm-ek-untrusted")
	w.registerTPM("sim", ca)

	g.begin()
	if a := g.attest(g.evidence(), doc); a.status != 200 {
		t.Fatalf("%d %s: %+v", a.status, a.body, w.admin.record(a.err.Record).Denial)
	}
	if a := g.get(secretName); a.status != 200 || string(g.open(a.body)) != "toy" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if len(g.token) > 32<<10 {
		t.Errorf("token of %d bytes", len(g.token))
	}
	var l []trusteeapi.Record
	_, b := w.admin.do("GET", "/namespaces/sim/attestations", nil)
	if err := json.Unmarshal(b, &l); err != nil || len(l) != 2 {
		t.Fatalf("%s %v", b, err)
	}
	if r := l[0]; r.Outcome != "granted" || !r.Simulated || r.Status != "warning" || r.Initdata != "sha256:"+digestOf(doc) || r.Claims["detail"].(map[string]any)["events"] == nil {
		t.Errorf("record %+v", r)
	}

	t.Run("changed initrd", func(t *testing.T) {
		g := w.boot("sim", ca, doc, func(e []refvalue.Event) []refvalue.Event {
			e[5].Digest = refvalue.Digest(sha256.Sum256([]byte("evil initrd")))
			return e
		})
		g.t = t
		g.begin()
		a := g.attest(g.evidence(), doc)
		denied(t, w, a, 403, "tpm-event-unexplained")
		d := w.admin.record(a.err.Record).Denial
		if !strings.Contains(d.Claim, "Linux initrd") || d.Measured == "" || d.Expected == "" || !strings.Contains(d.Source, "test build") {
			t.Errorf("the owner is not told: %+v", d)
		}
	})
	t.Run("genuine guest, another pod", func(t *testing.T) {
		g := w.boot("sim", ca, other, nil)
		g.t = t
		g.begin()
		if a := g.attest(g.evidence(), other); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		denied(t, w, g.get(secretName), 403, "secret-unbound")
	})
	t.Run("initdata exchanged on the way", func(t *testing.T) {
		g.t = t
		g.begin()
		denied(t, w, g.attest(g.evidence(), other), 403, "initdata-mismatch")
	})
	t.Run("another machine's evidence on this session", func(t *testing.T) {
		second := w.boot("sim", ca, doc, nil)
		second.t, g.t = t, t
		g.begin()
		// The relay has the second machine answer the first one's challenge data.
		rd := sha256.Sum256([]byte(g.runtimeData()))
		second.begin()
		var x struct{ TPM *kbs.TPMChallenge }
		if err := json.Unmarshal(second.extra, &x); err != nil {
			t.Fatal(err)
		}
		e, err := second.att.Evidence(t.Context(), rd[:], x.TPM)
		if err != nil {
			t.Fatal(err)
		}
		denied(t, w, g.attest(string(e), doc), 403, "tpm-ak-mismatch")
	})
	t.Run("simulated evidence in production", func(t *testing.T) {
		w.admin.must("PUT", "/namespaces/default/reference-values/build", tpmtest.References())
		p := w.boot("default", ca, doc, nil)
		p.t = t
		p.begin()
		denied(t, w, p.attest(p.evidence(), doc), 403, "simulated-evidence")
	})
	t.Run("reference values withdrawn", func(t *testing.T) {
		w.admin.do("DELETE", "/namespaces/sim/reference-values/build", nil)
		g.t = t
		g.begin()
		denied(t, w, g.attest(g.evidence(), doc), 403, "tpm-no-reference-values")
	})
	t.Run("client of the published protocol", func(t *testing.T) {
		c := w.client("sim")
		if a := c.auth("tpm", `{"supported-hash-algorithms":["sha256","sha384","sha512","sm3"]}`); a.status != 200 || string(c.extra) != `""` {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
}
