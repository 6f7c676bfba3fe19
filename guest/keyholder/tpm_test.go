package keyholder

import (
	"crypto/sha256"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/tpm/attester"
	"github.com/cofferproject/coffer/tee/tpm/device"
	"github.com/cofferproject/coffer/tee/tpm/sim"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
	"github.com/cofferproject/coffer/tee/tpm/verifier"
	"github.com/cofferproject/coffer/test/fakekbs"
)

// The whole way with a software TPM, real evidence and the real verifier.
func TestAttestationWithATPM(t *testing.T) {
	conn := tpmtest.Start(t)
	ca := tpmtest.NewCA(t, "simulated root")
	ca.Provision(t, conn, 2)
	log := tpmtest.Boot(t, conn, tpmtest.Events())
	v, err := verifier.New(verifier.Config{
		Simulated: verifier.InsecureSimulated, CredentialKey: make([]byte, 32), SimulatedRoots: []*x509.Certificate{ca.Root}, References: []*refvalue.Bundle{tpmtest.References()},
	})
	if err != nil {
		t.Fatal(err)
	}
	k := fakekbs.Start(t, v, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	k.Resources["default/secret/1"] = []byte("the secret")
	doc := document(t, k.URL, k.CAPEM())
	if err := device.BindInitdata(conn, sha256.Sum256(doc)); err != nil {
		t.Fatal(err)
	}
	open := func() (Attester, error) { return sim.New(conn, attester.Options{EventLogPath: log}) }
	p := runPod(t, doc, open)
	if b, err := p.get(t, "kbs:///default/secret/1"); err != nil || string(b) != "the secret" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestGenuineGuestWithAnotherInitdata(t *testing.T) {
	conn := tpmtest.Start(t)
	ca := tpmtest.NewCA(t, "simulated root")
	ca.Provision(t, conn, 0)
	log := tpmtest.Boot(t, conn, tpmtest.Events())
	v, err := verifier.New(verifier.Config{
		Simulated: verifier.InsecureSimulated, CredentialKey: make([]byte, 32), SimulatedRoots: []*x509.Certificate{ca.Root}, References: []*refvalue.Bundle{tpmtest.References()},
	})
	if err != nil {
		t.Fatal(err)
	}
	k := fakekbs.Start(t, v, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	if err := device.BindInitdata(conn, [32]byte{1}); err != nil {
		t.Fatal(err)
	}
	p := runPod(t, document(t, k.URL, k.CAPEM()), func() (Attester, error) { return sim.New(conn, attester.Options{EventLogPath: log}) })
	_, err = p.get(t, "kbs:///default/secret/1")
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), string(verifier.ReasonInitdataMismatch)) {
		t.Errorf("got %v", err)
	}
}

func TestReleaseAttesterRefusesASoftwareTPM(t *testing.T) {
	conn := tpmtest.Start(t)
	_, err := attester.New(conn, attester.Options{EventLogPath: tpmtest.Boot(t, conn, nil)})
	if err == nil || !strings.Contains(err.Error(), "software TPM") {
		t.Errorf("got %v", err)
	}
}
