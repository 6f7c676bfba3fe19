package attester

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/google/go-sev-guest/verify/testdata"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/attest/configfs"
	"github.com/cofferproject/coffer/tee/snp"
)

// device answers with a real report, whose signature no longer holds once other
// report data and host data are put in.
type device struct {
	provider string
	deaf     bool // reports are not over what was asked
	aux      []byte
	asked    int
}

func (d *device) Provider() string { return d.provider }

func (d *device) Report(_ context.Context, in []byte) (out, aux []byte, err error) {
	d.asked++
	raw := bytes.Clone(testdata.AttestationBytes)
	if !d.deaf {
		clear(raw[0x50:0x90])
		copy(raw[0x50:0x90], in)
	}
	copy(raw[0xC0:], "host data")
	return raw, d.aux, nil
}

func TestEvidence(t *testing.T) {
	table, err := snp.EncodeTable([]snp.Cert{{Type: snp.CertVCEK, Data: testdata.VcekBytes}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		aux   []byte
		note  string
		certs int
	}{"table": {table, "", 1}, "no table": {nil, "", 0}, "simulated": {nil, "nothing is protected", 0}} {
		a, err := New(&device{provider: configfs.SNP, aux: c.aux}, Options{Simulation: c.note})
		if err != nil {
			t.Fatal(err)
		}
		b, err := a.Evidence(context.Background(), bytes.Repeat([]byte{7}, 48), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		e, err := snp.Parse(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(e.Certs) != c.certs || e.Simulation != c.note || e.Report.ReportData[47] != 7 || e.Report.ReportData[48] != 0 {
			t.Errorf("%s: %d certificates, note %q, report data %x", name, len(e.Certs), e.Simulation, e.Report.ReportData)
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(b, &members); err != nil {
			t.Fatal(err)
		}
		if _, ok := members["simulation"]; ok != (c.note != "") || (string(members["cert_chain"]) == "null") != (c.certs == 0) {
			t.Errorf("%s: members %v", name, members)
		}
	}
}

func TestInitdataRegister(t *testing.T) {
	d := &device{provider: configfs.SNP}
	a, err := New(d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b, err := a.InitdataRegister(context.Background())
		if err != nil || len(b) != 32 || !bytes.HasPrefix(b, []byte("host data")) {
			t.Fatalf("%q, %v", b, err)
		}
		b[0] = 0 // a caller's own copy
	}
	if d.asked != 1 {
		t.Errorf("asked %d times", d.asked)
	}
}

func TestRefused(t *testing.T) {
	if _, err := New(&device{provider: configfs.TDX}, Options{}); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("another provider: %v", err)
	}
	for name, d := range map[string]*device{
		"other report data": {provider: configfs.SNP, deaf: true},
		"bent table":        {provider: configfs.SNP, aux: bytes.Repeat([]byte{1}, 23)},
	} {
		a, err := New(d, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Evidence(context.Background(), []byte("x"), nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := Open(); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("on a machine that is no SNP guest: %v", err)
	}
}

func TestDevice(t *testing.T) {
	if unsafe.Sizeof(guestRequest{}) != 32 || unsafe.Sizeof(extRequest{}) != 112 {
		t.Fatal("the kernel's structures have 32 and 112 bytes")
	}
	if _, err := OpenDevice(filepath.Join(t.TempDir(), "none")); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("no device: %v", err)
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	status := uint32(0)
	d := &Device{f: f, call: func(_ uintptr, r *guestRequest) error {
		req := (*extRequest)(pointer(r.request))
		rsp := unsafe.Slice((*byte)(pointer(r.response)), 4000)
		if req.vmpl != 0 || req.certsLen%4096 != 0 || r.version != 1 {
			return unix.EINVAL
		}
		binary.LittleEndian.PutUint32(rsp, status)
		binary.LittleEndian.PutUint32(rsp[4:], snp.ReportSize)
		copy(rsp[responseHead:], testdata.AttestationBytes)
		copy(rsp[responseHead+0x50:], req.reportData[:])
		table, err := snp.EncodeTable([]snp.Cert{{Type: snp.CertVCEK, Data: testdata.VcekBytes}})
		copy(unsafe.Slice((*byte)(pointer(req.certs)), int(req.certsLen)), table)
		return err
	}}
	a, err := New(d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := a.Evidence(context.Background(), []byte("nonce"), nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := snp.Parse(b)
	if err != nil || len(e.Certs) != 1 || !bytes.Equal(e.Certs[0].Data, testdata.VcekBytes) || !bytes.HasPrefix(e.Report.ReportData[:], []byte("nonce")) {
		t.Errorf("%v, %v", e, err)
	}
	status = 0x16
	if _, err := a.Evidence(context.Background(), []byte("nonce"), nil); err == nil {
		t.Error("a failed request: accepted")
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// pointer turns the address that the kernel would get back into a pointer.
func pointer(a uint64) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(&a))
}

// What the guest links stays small.
func TestLinks(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		for _, bad := range []string{"go-sev-guest", "google.golang.org/grpc", "open-policy-agent", "coffer/tee/verify", "coffer/tee/snp/verifier", "coffer/tee/snp/measure", "coffer/tee/snp/sim"} {
			if strings.Contains(p, bad) {
				t.Errorf("links %s", p)
			}
		}
	}
}
