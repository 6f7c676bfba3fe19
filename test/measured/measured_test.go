// Package measured compares what the driver boots with what the calculator
// computed, event for event: the one table of cases that keeps host/vmm and
// tee/tpm/measure from drifting apart (design.md section 2).
//
// Trust zone: none; a test of all of them.
package measured

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/host/vmm"
	"github.com/cofferproject/coffer/tee/eventlog"
	"github.com/cofferproject/coffer/tee/tpm/measure"
)

// dumpFlag makes test/bench/bareinit print the event log.
const dumpFlag = " coffer.eventlog"

// bootTimeout is what the firmware and the guest may take under TCG on a busy machine.
const bootTimeout = 4 * time.Minute

func load(t *testing.T) (p *platform.Platform, cache string) {
	t.Helper()
	if os.Getenv("COFFER_E2E") == "" {
		t.Skip("boots VMs: set COFFER_E2E=1")
	}
	cache, err := vmm.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := os.Getenv("COFFER_PLATFORM")
	if path == "" {
		path = filepath.Join(cache, "guest", platform.FileName)
	}
	if p, err = platform.Load(path); err != nil {
		t.Fatalf("%v (coffer guest build makes it)", err)
	}
	return p, cache
}

// booted is what a guest said about its own boot.
type booted struct {
	log  []byte
	pcrs map[int]string
}

// boot launches spec, whose init is bareinit, and reads the console.
func boot(t *testing.T, p *platform.Platform, cache string, spec *launch.Spec) booted {
	t.Helper()
	d, err := vmm.New(p, vmm.Options{CacheDir: cache, BootTimeout: bootTimeout})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	vm, err := d.Launch(ctx, "measured", dir, spec, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := vm.Destroy(); err != nil {
			t.Error(err)
		}
	}()
	console := filepath.Join(dir, nodeapi.ConsoleLog)
	for end := time.Now().Add(bootTimeout); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		b, err := os.ReadFile(console)
		if err == nil && strings.Contains(string(b), "EVENTLOG-END") {
			return parseConsole(t, string(b))
		}
	}
	b, _ := os.ReadFile(console)
	t.Fatalf("no event log on the console: %.2000s", b)
	return booted{}
}

func parseConsole(t *testing.T, s string) booted {
	t.Helper()
	r := booted{pcrs: map[int]string{}}
	sc := bufio.NewScanner(strings.NewReader(s))
	for sc.Scan() {
		l := strings.TrimSpace(sc.Text())
		if x, ok := strings.CutPrefix(l, "EVENTLOG "); ok {
			b, err := hex.DecodeString(x)
			if err != nil {
				t.Fatalf("console line %q: %v", l, err)
			}
			r.log = append(r.log, b...)
		}
		if f := strings.Fields(l); len(f) == 3 && f[0] == "PCR" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatalf("console line %q: %v", l, err)
			}
			r.pcrs[n] = strings.ToLower(f[2])
		}
	}
	return r
}

// compare demands that log and computed events are the same, register by
// register and in order, and that they replay to the register's value.
func compare(t *testing.T, got booted, want []refvalue.Event) {
	t.Helper()
	l, err := eventlog.Parse(got.log)
	if err != nil {
		t.Fatal(err)
	}
	line := func(pcr int, ty refvalue.EventType, sum string) string {
		return fmt.Sprintf("PCR %d %s %s", pcr, ty, sum)
	}
	events := 0
	for _, pcr := range refvalue.QuotedPCRs {
		var measured, computed []string
		for i := range l.Events {
			e := &l.Events[i]
			if int(e.Register) == pcr && e.Type != refvalue.NoAction {
				sum, ok := e.Sum(eventlog.SHA256)
				if !ok {
					t.Fatalf("event %d has no SHA-256 digest", i)
				}
				measured = append(measured, line(pcr, e.Type, hex.EncodeToString(sum)))
			}
		}
		for _, e := range want {
			if e.PCR == pcr {
				computed = append(computed, line(pcr, e.Type, e.Digest.String()))
			}
		}
		events += len(measured)
		if !slices.Equal(measured, computed) {
			t.Errorf("PCR %d\nmeasured:\n%s\ncomputed:\n%s", pcr, strings.Join(measured, "\n"), strings.Join(computed, "\n"))
		}
		if r := refvalue.Replay(want, pcr).String(); r != got.pcrs[pcr] {
			t.Errorf("PCR %d is %s, computed %s", pcr, got.pcrs[pcr], r)
		}
	}
	if events < 20 {
		t.Errorf("only %d events: the log was not read", events)
	}
}

func TestComputedEventsAreMeasured(t *testing.T) {
	p, cache := load(t)
	bare, err := os.ReadFile(filepath.Join(filepath.Dir(p.Measurements), "initrd-bare.cpio"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, image   string
		memory, vcpus int
		pad           int // bytes behind the initrd, so that its size differs
	}{
		{"smallest", platform.Release, 256, 1, 0},
		{"debug with more vCPUs", platform.Debug, 512, 3, 5000},
		{"memory above 4 GiB", platform.Sim, 3072, 2, 1 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			spec, err := p.Spec(launch.TPMSim, c.image, c.memory, c.vcpus)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "initrd")
			if err := os.WriteFile(path, append(slices.Clone(bare), make([]byte, c.pad)...), 0o644); err != nil {
				t.Fatal(err)
			}
			spec.Initrd = launch.File{Path: path}
			spec.Cmdline += dumpFlag
			spec.Initdata = []byte("version = \"0.1.0\"\n")
			want, err := measure.Compute(spec)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, boot(t, p, cache, spec), want)
		})
	}
}

// TestLearn boots a firmware and prints its entry of tee/tpm/measure's table.
// COFFER_LEARN names the folder with the pair of files; "1" is the platform's own.
func TestLearn(t *testing.T) {
	dir := os.Getenv("COFFER_LEARN")
	if dir == "" {
		t.Skip("set COFFER_LEARN to the folder of OVMF_CODE.fd and OVMF_VARS.fd, or to 1")
	}
	p, cache := load(t)
	if dir != "1" {
		p.Firmware = platform.Firmware{Code: filepath.Join(dir, "OVMF_CODE.fd"), Vars: filepath.Join(dir, "OVMF_VARS.fd"), Package: "unnamed"}
	}
	spec, err := p.Spec(launch.TPMSim, platform.Release, 256, 2)
	if err != nil {
		t.Fatal(err)
	}
	spec.Initrd = launch.File{Path: filepath.Join(filepath.Dir(p.Measurements), "initrd-bare.cpio")}
	spec.Cmdline += dumpFlag
	l, err := eventlog.Parse(boot(t, p, cache, spec).log)
	if err != nil {
		t.Fatal(err)
	}
	o := measure.Observed{MemoryMiB: spec.MemoryMiB, VCPUs: spec.VCPUs}
	var blobs []refvalue.Digest
	for i := range l.Events {
		switch e := &l.Events[i]; e.Type {
		case refvalue.SCRTMVersion:
			o.CRTMVersion = e.Data
		case refvalue.EFIPlatformFirmwareBlob:
			sum, _ := e.Sum(eventlog.SHA256)
			blobs = append(blobs, refvalue.Digest(sum))
		}
	}
	if len(blobs) != 2 {
		t.Fatalf("%d firmware volumes were measured, want 2", len(blobs))
	}
	o.PEI, o.DXE = blobs[0], blobs[1]
	code, err := os.ReadFile(p.Firmware.Code)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := measure.Learn(p.Firmware.Package+" "+filepath.Base(p.Firmware.Code), code, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("entry of profiles in tee/tpm/measure/profile.go:\n%s", entry)
}
