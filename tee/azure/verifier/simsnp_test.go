package verifier

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/azure/azuretest"
	"github.com/cofferproject/coffer/tee/azure/sim"
	"github.com/cofferproject/coffer/tee/snp"
	"github.com/cofferproject/coffer/tee/verify"
)

const debugPolicy = snp.Policy(launch.DefaultSNPPolicy | 1<<19)

func simulated(t testing.TB) *Verifier {
	t.Helper()
	return newSNP(t, verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{azuretest.SNPHardware().Authority.Root()}}, Options{})
}

// A whole az-snp-vtpm machine, as coffer-simhw plays it.
func TestSimulatedSNP(t *testing.T) {
	m := azuretest.SNPHardware()
	v := simulated(t)
	doc := document(t, "mine")
	sum := sha256.Sum256(doc)
	g := azuretest.Boot(t, sim.Options{SNP: m.Launch(t, snp.Policy(launch.DefaultSNPPolicy))}, &sum)
	rd := sha256.Sum256([]byte("session"))
	in := verify.Input{Evidence: g.Evidence(t, rd[:]), ReportData: rd[:], Initdata: doc, Now: time.Now()}
	rs, err := v.Verify(&in)
	if err != nil {
		t.Fatal(err)
	}
	r := rs[0]
	digest := [48]byte{1, 2, 3}
	if g.Att.TEE() != azure.SNP || r.TEE != azure.SNP || !r.Simulated || r.SimulationNote != azuretest.Note || r.Debug || len(r.Unproven) > 0 || r.Initdata.Hex != hex.EncodeToString(sum[:]) ||
		r.Claims["measurement"] != base64.StdEncoding.EncodeToString(digest[:]) || r.Claims["simulation"] != azuretest.Note {
		t.Errorf("%+v", r)
	}
	if _, err := newSNP(t, verify.Config{Kind: verify.Production, InsecureSkipRevocation: true}, Options{}).Verify(&in); reason(err) != verify.ReasonSimulated {
		t.Errorf("in production: %v", err)
	}
	other := newSNP(t, verify.Config{Kind: verify.InsecureSimulated}, Options{})
	if _, err := other.Verify(&in); err == nil {
		t.Error("another machine's root: accepted")
	}

	g = azuretest.Boot(t, sim.Options{SNP: m.Launch(t, debugPolicy)}, &sum)
	in.Evidence = g.Evidence(t, rd[:])
	if rs, err = v.Verify(&in); err != nil || !rs[0].Debug || rs[0].Claims["policy_debug_allowed"] != "true" {
		t.Errorf("a debugged guest: %+v, %v", rs, err)
	}

	// A guest of Coffer's without a device, and one of another make that binds nothing.
	none := initdata.NoneDigest()
	for _, digest := range []*[32]byte{&none, nil} {
		g = azuretest.Boot(t, sim.Options{SNP: m.Launch(t, snp.Policy(launch.DefaultSNPPolicy))}, digest)
		in.Evidence, in.Initdata = g.Evidence(t, rd[:]), nil
		if rs, err = v.Verify(&in); err != nil || rs[0].Initdata != nil {
			t.Errorf("no document: %v, %v", rs, err)
		}
		in.Initdata = doc
		if _, err = v.Verify(&in); reason(err) != verify.ReasonInitdataUnexpected {
			t.Errorf("a document for a guest without: %v", err)
		}
	}
}
