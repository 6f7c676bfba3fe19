package attester

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/tpm"
	"github.com/cofferproject/coffer/tee/tpm/device"
	"github.com/cofferproject/coffer/tee/tpm/tpmtest"
)

func acceptAll(Vendor) (string, bool) { return "test", true }

func TestTPMWithoutCertificate(t *testing.T) {
	c := tpmtest.Start(t)
	a, err := New(c, Options{EventLogPath: tpmtest.Boot(t, c, nil), AcceptSoftware: acceptAll})
	if err != nil {
		t.Fatal(err)
	}
	if a.RequestExtra().TPM != nil {
		t.Error("a TPM without certificate offers one")
	}
	b, err := a.Evidence(context.Background(), []byte("short"), nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := tpm.Parse(b)
	if err != nil || e.CredentialMAC != nil || e.Simulation != "test" {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := a.Evidence(context.Background(), make([]byte, 48), &kbs.TPMChallenge{}); err == nil {
		t.Error("answered a challenge without an endorsement key")
	}
}

// An attestation may still run when its guest ends.
func TestEvidenceAfterClose(t *testing.T) {
	c := tpmtest.Start(t)
	tpmtest.NewCA(t, "root").Provision(t, c, 0)
	a, err := New(c, Options{EventLogPath: tpmtest.Boot(t, c, nil), AcceptSoftware: acceptAll})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for _, ch := range []*kbs.TPMChallenge{nil, {}} {
		if _, err := a.Evidence(context.Background(), make([]byte, 48), ch); !errors.Is(err, errClosed) {
			t.Errorf("challenge %v: %v", ch != nil, err)
		}
	}
}

func TestCertificateOfAnotherTPM(t *testing.T) {
	one, two := tpmtest.Start(t), tpmtest.Start(t)
	ca := tpmtest.NewCA(t, "root")
	ca.Provision(t, one, 0)
	cert, err := readNV(one, tpm.EKKinds()[0].NVIndex)
	if err != nil {
		t.Fatal(err)
	}
	tpmtest.WriteNV(t, two, tpm.EKKinds()[0].NVIndex, cert)
	_, err = New(two, Options{EventLogPath: tpmtest.Boot(t, two, nil), AcceptSoftware: acceptAll})
	if err == nil || !strings.Contains(err.Error(), "not for the TPM's") {
		t.Errorf("got %v", err)
	}
	// Nothing stays behind in the TPM, whose slots are few.
	for _, h := range []tpm2.TPMHandle{0x80000000, 0x80000001} {
		if _, err := (tpm2.ReadPublic{ObjectHandle: h}).Execute(two); err == nil {
			t.Errorf("handle %#x is still loaded", uint32(h))
		}
	}
}

// A key holder that crashed leaves its keys behind; the next one must not run
// out of slots.
func TestKeysOfACrashedUserAreFlushed(t *testing.T) {
	c := tpmtest.Start(t)
	ca := tpmtest.NewCA(t, "root")
	ca.Provision(t, c, 0)
	log := tpmtest.Boot(t, c, nil)
	for range 5 {
		if _, err := New(c, Options{EventLogPath: log, AcceptSoftware: acceptAll}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEventLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, make([]byte, tpm.MaxEventLog+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := device.ReadEventLog(path, tpm.MaxEventLog); err == nil {
		t.Error("an oversized log was read")
	}
}

// cut is a device that answers with too little or announces too much.
type cut struct{ rsp []byte }

func (c *cut) Write(b []byte) (int, error) { return len(b), nil }
func (c *cut) Close() error                { return nil }
func (c *cut) Read(b []byte) (int, error) {
	if len(c.rsp) == 0 {
		return 0, errors.New("end")
	}
	n := copy(b, c.rsp)
	c.rsp = c.rsp[n:]
	return n, nil
}

func TestBrokenResponses(t *testing.T) {
	for name, rsp := range map[string][]byte{
		"nothing": {}, "short": {0x80, 1, 0, 0, 0, 10}, "longer than announced": {0x80, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0}, "huge": {0x80, 1, 0xff, 0, 0, 0, 0, 0, 0, 0},
		"cut": {0x80, 1, 0, 0, 0, 20, 0, 0, 0, 0},
	} {
		if b, err := device.NewConn(&cut{rsp}).Send([]byte{1}); err == nil {
			t.Errorf("%s: gave %x", name, b)
		}
	}
}

// BenchmarkEvidence is what one attestation asks of the TPM.
func BenchmarkEvidence(b *testing.B) {
	c := tpmtest.Start(b)
	a, err := New(c, Options{EventLogPath: tpmtest.Boot(b, c, tpmtest.Events()), AcceptSoftware: acceptAll})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := a.Evidence(context.Background(), make([]byte, 48), nil); err != nil {
			b.Fatal(err)
		}
	}
}
