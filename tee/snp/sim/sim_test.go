package sim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ulikunitz/xz"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/snp"
	"github.com/cofferproject/coffer/tee/snp/attester"
	"github.com/cofferproject/coffer/tee/snp/firmware"
	"github.com/cofferproject/coffer/tee/snp/measure"
	"github.com/cofferproject/coffer/tee/snp/verifier"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
)

var now = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// authority is made once: RSA-4096 keys take their time.
var authority = sync.OnceValues(func() (*Authority, error) { return NewAuthority(now) })

func machine(t testing.TB) *Authority {
	t.Helper()
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func amdsev(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join(vectors.Dir(t, "measure"), "OVMF.amdsev.fd.xz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := xz.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The simulated hardware and the calculator share neither the kernel-hash table
// nor the digest's chain, and agree.
func TestAgreesWithMeasure(t *testing.T) {
	small, err := os.ReadFile(filepath.Join(vectors.Dir(t, "measure"), "ovmf_AmdSev_suffix.bin"))
	if err != nil {
		t.Fatal(err)
	}
	for i, fw := range [][]byte{small, amdsev(t)} {
		for vcpus := 1; vcpus <= 5; vcpus += 2 {
			for _, model := range []string{"EPYC-v4", "EPYC-Genoa"} {
				for _, initrd := range [][]byte{nil, []byte("an initrd")} {
					for _, cmdline := range []string{"", launch.ConstantCmdline} {
						sig, err := firmware.Signature(model)
						if err != nil {
							t.Fatal(err)
						}
						kernel := fmt.Appendf(nil, "kernel %d", vcpus)
						want, err := measure.Launch(measure.Input{
							TEE: launch.SNP, Firmware: fw, Kernel: measure.HashKernel(kernel, initrd, cmdline), VCPUs: vcpus, Signature: sig, Features: 1,
						})
						if err != nil {
							t.Fatal(err)
						}
						got, err := Launch(Inputs{
							Firmware: fw, Kernel: sha256.Sum256(kernel), Initrd: sha256.Sum256(initrd), Cmdline: cmdline, VCPUs: vcpus, Signature: sig, Features: 1,
						})
						if err != nil || !bytes.Equal(got[:], want) {
							t.Errorf("firmware %d, %d vCPUs, %s, initrd %q, %q: %x, calculated %x, %v", i, vcpus, model, initrd, cmdline, got, want, err)
						}
					}
				}
			}
		}
	}
}

// A published digest, so that both cannot be wrong in the same way.
func TestPublishedDigest(t *testing.T) {
	blob := func(name string, size int) []byte {
		var b []byte
		for i := 0; len(b) < size; i++ {
			s := sha256.Sum256(fmt.Appendf(nil, "%s:%d", name, i))
			b = append(b, s[:]...)
		}
		return b[:size]
	}
	got, err := Launch(Inputs{
		Firmware: amdsev(t), Kernel: sha256.Sum256(blob("kernel-a", 70001)), Initrd: sha256.Sum256(blob("initrd-a", 123457)),
		Cmdline: "console=ttyS0 quiet panic=-1", VCPUs: 1, Signature: 0x800f12, Features: 1,
	})
	if err != nil || fmt.Sprintf("%x", got) != "9ee6c7de3f483a53ff3bc753601fe2cda9582936b459cf36a2c4ef0377c746606700f65b8cca870d54ee0fd8fa3d3ff6" {
		t.Errorf("%x, %v", got, err)
	}
}

func TestLaunchRefused(t *testing.T) {
	plain, err := os.ReadFile(filepath.Join(vectors.Dir(t, "measure"), "ovmf_OvmfX64_suffix.bin"))
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]Inputs{
		"no hash table": {Firmware: plain, VCPUs: 1}, "no vCPU": {Firmware: amdsev(t)}, "no firmware": {VCPUs: 1},
	} {
		if d, err := Launch(in); err == nil {
			t.Errorf("%s: %x", name, d)
		}
	}
	c, err := machine(t).Chip(Genoa, Genoa.DefaultTCB(), now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Launch(Guest{Policy: 0x10000}); err == nil {
		t.Error("a policy without its fixed bit: accepted")
	}
}

// From launch to claims, over the attester that guests use.
func TestEndToEnd(t *testing.T) {
	a := machine(t)
	for _, c := range []struct {
		g        Generation
		unproven []string
	}{{Milan, nil}, {Genoa, nil}, {Turin, []string{verifier.UnprovenV5, verifier.UnprovenTurin}}} {
		t.Run(c.g.Product, func(t *testing.T) {
			chip, err := a.Chip(c.g, c.g.DefaultTCB(), now)
			if err != nil {
				t.Fatal(err)
			}
			digest := [48]byte{1, 2, 3}
			m, err := chip.Launch(Guest{Digest: digest, Policy: snp.Policy(launch.DefaultSNPPolicy)})
			if err != nil {
				t.Fatal(err)
			}
			note := Note("00ff", "EPYC-v4")
			at, err := attester.New(m, attester.Options{Simulation: note})
			if err != nil {
				t.Fatal(err)
			}
			nonce := bytes.Repeat([]byte{9}, 48)
			e, err := at.Evidence(context.Background(), nonce, nil)
			if err != nil {
				t.Fatal(err)
			}
			cfg := verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{a.Root()}, AllowUnproven: c.unproven}
			in := &verify.Input{Evidence: e, ReportData: nonce, Now: now}
			v, err := verifier.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			rs, err := v.Verify(in)
			if err != nil {
				t.Fatal(err)
			}
			if r := rs[0]; !r.Simulated || r.SimulationNote != note || r.Claims["measurement"] != fmt.Sprintf("%x", digest) || len(r.Unproven) != len(c.unproven) {
				t.Errorf("got %+v", r)
			}
			// In production neither note nor root helps.
			v, err = verifier.New(verify.Config{Kind: verify.Production, AllowUnproven: c.unproven})
			if err != nil {
				t.Fatal(err)
			}
			if d, _ := denial.As(func() error { _, err := v.Verify(in); return err }()); d == nil || d.Reason != verify.ReasonSimulated {
				t.Errorf("production: %v", d)
			}
			if at, err = attester.New(m, attester.Options{}); err != nil {
				t.Fatal(err)
			}
			if in.Evidence, err = at.Evidence(context.Background(), nonce, nil); err != nil {
				t.Fatal(err)
			}
			if d, _ := denial.As(func() error { _, err := v.Verify(in); return err }()); d == nil || d.Reason != verifier.ReasonChainUntrusted {
				t.Errorf("production without note: %v", d)
			}
		})
	}
}

func TestAuthorityIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	a := *machine(t)
	if err := a.store(dir, filepath.Join(dir, fileName)); err != nil {
		t.Fatal(err)
	}
	if err := a.store(dir, filepath.Join(dir, fileName)); err == nil {
		t.Error("stored twice")
	}
	b, err := OpenAuthority(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	if !b.Root().Equal(a.Root()) || !bytes.Equal(b.seed, a.seed) {
		t.Error("another authority")
	}
	first, err := b.Chip(Genoa, Genoa.DefaultTCB(), now)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Chip(Genoa, Genoa.DefaultTCB(), now.AddDate(1, 0, 0))
	if err != nil || !bytes.Equal(first.cert, again.cert) {
		t.Errorf("the certificate was made again: %v", err)
	}
	old := Genoa.DefaultTCB()
	old.Microcode--
	other, err := b.Chip(Genoa, old, now)
	if err != nil || other.key.Equal(first.key) || other.ID != first.ID {
		t.Errorf("another TCB has the same key, or another chip id: %v", err)
	}
	late, err := b.Chip(Genoa, Genoa.DefaultTCB(), now.AddDate(8, 0, 0))
	if err != nil || bytes.Equal(first.cert, late.cert) {
		t.Errorf("an expired certificate was kept: %v", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Errorf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if st, err := f.Info(); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", f.Name(), st.Mode(), err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, fileName), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir, now); err == nil {
		t.Error("keys that all can read: accepted")
	}
	if err := os.Chmod(filepath.Join(dir, fileName), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fileName), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir, now); err == nil {
		t.Error("a broken file: accepted")
	}
}
