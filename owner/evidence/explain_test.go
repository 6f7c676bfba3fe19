package evidence

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ulikunitz/xz"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/owner/measure"
	"github.com/cofferproject/coffer/tee/snp"
	"github.com/cofferproject/coffer/tee/snp/attester"
	"github.com/cofferproject/coffer/tee/snp/firmware"
	"github.com/cofferproject/coffer/tee/snp/sim"
	"github.com/cofferproject/coffer/test/vectors"
)

// TestTheInputThatDiffersIsNamed judges evidence of a machine with one vCPU more
// than the reference values were computed for.
func TestTheInputThatDiffersIsNamed(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	f, err := os.Open(filepath.Join(vectors.Dir(t, "measure"), "OVMF.amdsev.fd.xz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := xz.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	fw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) launch.File {
		p := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return launch.File{Path: p, SHA256: fmt.Sprintf("%x", sha256.Sum256(b))}
	}
	spec := &launch.Spec{
		TEE: launch.SNPSim, Kernel: write("kernel", []byte("kernel")), Initrd: write("initrd", []byte("initrd")), TEEFirmware: write("firmware", fw),
		Cmdline: "quiet", VCPUs: 2, MemoryMiB: 512, CPUModel: "EPYC-v4",
	}
	expected, err := measure.Launch(spec)
	if err != nil {
		t.Fatal(err)
	}
	values, err := expected.Bundle("test", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := sim.NewAuthority(now)
	if err != nil {
		t.Fatal(err)
	}
	chip, err := a.Chip(sim.Milan, sim.Milan.DefaultTCB(), now)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := firmware.Signature("EPYC-v4")
	if err != nil {
		t.Fatal(err)
	}
	// By the simulator's own calculator, not by ours.
	digest, err := sim.Launch(sim.Inputs{
		Firmware: fw, Kernel: sha256.Sum256([]byte("kernel")), Initrd: sha256.Sum256([]byte("initrd")), Cmdline: "quiet", VCPUs: 3, Signature: sig, Features: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := chip.Launch(sim.Guest{Digest: digest, Policy: snp.Policy(launch.DefaultSNPPolicy)})
	if err != nil {
		t.Fatal(err)
	}
	at, err := attester.New(m, attester.Options{Simulation: "test"})
	if err != nil {
		t.Fatal(err)
	}
	file, err := at.Evidence(t.Context(), bytes.Repeat([]byte{9}, 48), nil)
	if err != nil {
		t.Fatal(err)
	}
	o := &Options{
		TEE: "snp", Now: now, SimulatedRoots: []*x509.Certificate{a.Root()}, InsecureSkipRevocation: true,
		References: []*refvalue.Bundle{values}, ReferenceNames: []string{"values.jws"},
	}
	judge := func() *measure.Explanation {
		t.Helper()
		rep, err := Judge(t.Context(), file, o)
		if err != nil || rep.Denial != nil || len(rep.Devices) != 1 {
			t.Fatalf("%+v, %v", rep, err)
		}
		return rep.Devices[0].Launch
	}
	// Without the files nothing can be computed, and that is said.
	if e := judge(); e == nil || len(e.Differences) > 0 || e.Against.Verified || !strings.Contains(fmt.Sprint(e.Facts()), "nothing could be computed") {
		t.Errorf("%+v", e)
	}
	o.Platform = func() *platform.Platform {
		return &platform.Platform{
			TEEFirmware: map[string]platform.TEEFirmware{"snp": {Path: spec.TEEFirmware.Path, SHA256: spec.TEEFirmware.SHA256}},
			Images: map[string]platform.Image{"sim": {
				Kernel: spec.Kernel.Path, KernelSHA256: spec.Kernel.SHA256, Initrd: spec.Initrd.Path, InitrdSHA256: spec.Initrd.SHA256, Cmdline: "quiet",
			}},
		}
	}
	e := judge()
	if e == nil || len(e.Differences) != 1 || e.Differences[0].Input != measure.VCPUs || e.Differences[0].Expected != "2" || e.Differences[0].Launched != "3" {
		t.Fatalf("%+v", e)
	}
	if e.Against.Bundle != "values.jws" || !e.Against.Verified {
		t.Errorf("%+v", e.Against)
	}
	// Affirmed measurements need no explanation.
	values.Values["snp_launch_measurement"] = []any{fmt.Sprintf("%x", digest)}
	if e := judge(); e != nil {
		t.Errorf("%+v", e)
	}
}
