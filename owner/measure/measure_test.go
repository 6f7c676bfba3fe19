package measure

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ulikunitz/xz"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/tdx/tdxtest"
)

// unpacked gives a TEE's firmware from the vectors.
func unpacked(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "..", "shared", "vectors", "measure", name+".xz"))
	if os.IsNotExist(err) {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("no vectors: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := xz.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(io.LimitReader(r, 64<<20))
	if err != nil {
		t.Fatal(err)
	}
	return file(t, name, b)
}

func file(t *testing.T, name string, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestFields changes one input at a time: exactly the fields that are made of it
// must change.
func TestFields(t *testing.T) {
	kernel := tdxtest.Kernel("kernel", 0)
	for _, c := range []struct {
		tee, firmware string
		changed       map[string][]string
	}{
		{"snp-sim", "OVMF.amdsev.fd", map[string][]string{
			"kernel": {"measurement"}, "initrd": {"measurement"}, "cmdline": {"measurement"}, "vcpus": {"measurement"}, "model": {"measurement"},
			"memory": nil, "initdata": {"init_data"},
		}},
		{"tdx-sim", "OVMF.inteltdx.ms.fd", map[string][]string{
			"kernel": {"rtmr_1"}, "initrd": {"rtmr_2"}, "cmdline": {"rtmr_2"}, "vcpus": {"rtmr_0"}, "memory": {"rtmr_0"}, "model": nil, "initdata": {"init_data"},
		}},
		{"cca-sim", "", map[string][]string{
			"kernel": {"cca-realm-initial-measurement"}, "initrd": {"cca-realm-initial-measurement"}, "cmdline": {"cca-realm-initial-measurement"},
			"vcpus": {"cca-realm-initial-measurement"}, "memory": {"cca-realm-initial-measurement"}, "model": nil, "initdata": {"init_data"},
		}},
		{"azure-snp-sim", "OVMF.amdsev.fd", map[string][]string{
			"kernel": {"pcr11"}, "initrd": {"pcr11"}, "cmdline": {"pcr11"}, "vcpus": nil, "memory": nil, "model": {"measurement"}, "initdata": {"init_data"},
		}},
		{"nitro-sim", "", map[string][]string{
			"kernel": {"pcr0", "pcr1"}, "initrd": {"pcr0", "pcr1"}, "cmdline": {"pcr0", "pcr1"}, "vcpus": nil, "memory": nil, "model": nil, "initdata": {"init_data"},
		}},
	} {
		t.Run(c.tee, func(t *testing.T) {
			base := launch.Spec{
				TEE: launch.TEE(c.tee), Kernel: launch.File{Path: file(t, "kernel", kernel)}, Initrd: launch.File{Path: file(t, "initrd", []byte("initrd"))},
				Cmdline: "console=ttyS0", VCPUs: 1, MemoryMiB: 256, Initdata: []byte("document"),
			}
			if c.firmware != "" {
				base.TEEFirmware.Path = unpacked(t, c.firmware)
			}
			before, err := Launch(&base)
			if err != nil {
				t.Fatal(err)
			}
			for what, want := range c.changed {
				s := base
				switch what {
				case "kernel":
					s.Kernel.Path = file(t, "kernel", tdxtest.Kernel("another", 0))
				case "initrd":
					s.Initrd.Path = file(t, "initrd", []byte("another"))
				case "cmdline":
					s.Cmdline += " x"
				case "vcpus":
					s.VCPUs = 2
				case "memory":
					s.MemoryMiB = 512
				case "model":
					s.CPUModel = "EPYC-Milan"
				case "initdata":
					s.Initdata = []byte("another")
				}
				after, err := Launch(&s)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				var got []string
				for i, r := range after.Rows {
					if r.Field != before.Rows[i].Field {
						t.Fatalf("%s: rows are others", what)
					}
					if r.Value != before.Rows[i].Value {
						got = append(got, r.Field)
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s changes %v, want %v", what, got, want)
				}
				// The table of fields says the same.
				input := map[string]Input{"kernel": Kernel, "initrd": Initrd, "cmdline": Cmdline, "vcpus": VCPUs, "memory": Memory, "model": CPUModel}[what]
				var table []string
				for _, f := range fields[base.TEE.Wire()] {
					if slices.Contains(f.of, input) {
						table = append(table, f.claim[strings.LastIndexByte(f.claim, '.')+1:])
					}
				}
				if what != "initdata" && !slices.Equal(table, want) {
					t.Errorf("%s: the table of fields says %v, want %v", what, table, want)
				}
			}
			b, err := before.Bundle("test", time.Now().Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			doc, err := b.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if again, err := refvalue.Parse(doc); err != nil || len(again.Values) == 0 || *again.Provenance.Launch != *before.Launch {
				t.Errorf("the bundle does not survive: %v", err)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	k := launch.File{Path: file(t, "kernel", tdxtest.Kernel("kernel", 0))}
	for name, s := range map[string]launch.Spec{
		"unknown TEE":   {TEE: "csv", Kernel: k, VCPUs: 1, MemoryMiB: 256},
		"no vCPU":       {TEE: launch.CCASim, Kernel: k, MemoryMiB: 256},
		"no kernel":     {TEE: launch.CCASim, Kernel: launch.File{Path: "/nonexistent"}, VCPUs: 1, MemoryMiB: 256},
		"other kernel":  {TEE: launch.CCASim, Kernel: launch.File{Path: k.Path, SHA256: "00"}, VCPUs: 1, MemoryMiB: 256},
		"no firmware":   {TEE: launch.SNPSim, Kernel: k, VCPUs: 1, MemoryMiB: 256},
		"empty kernel":  {TEE: launch.CCASim, Kernel: launch.File{Path: file(t, "empty", nil)}, VCPUs: 1, MemoryMiB: 256},
		"tpm, no flash": {TEE: launch.TPMSim, Kernel: k, VCPUs: 1, MemoryMiB: 256},
	} {
		if _, err := Launch(&s); err == nil {
			t.Errorf("%s: measured", name)
		}
	}
}

// Event sets carry the image's name, which is all that tells a TPM's debug guest.
func TestBundleOfADebugImage(t *testing.T) {
	r := &Result{Sets: []refvalue.Set{{TEE: "tpm-sim", Image: "sim", MemoryMiB: 256, Events: []refvalue.Event{{PCR: 4, Type: refvalue.EventTag}}}}}
	for _, debug := range []bool{false, true} {
		r.Debug = debug
		b, err := r.Bundle("test", time.Time{})
		if err != nil || b.Debug != debug || refvalue.DebugImage(b.Sets[0].Image) != debug {
			t.Errorf("debug %t: %+v, %v", debug, b, err)
		}
	}
	if r.Sets[0].Image != "sim" {
		t.Errorf("the result was changed: %q", r.Sets[0].Image)
	}
}
