package measure

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/tdx/tdxtest"
)

func TestLowMemory(t *testing.T) {
	for mib, want := range map[int]int64{256: 256 << 20, 2048: 2048 << 20, 2815: 2815 << 20, 2816: 2048 << 20, 32768: 2048 << 20} {
		if got := lowMemory(mib); got != want {
			t.Errorf("%d MiB: %d bytes below 4 GiB, want %d", mib, got, want)
		}
	}
}

func TestPlatformHOBDependsOnlyOnWhatItShould(t *testing.T) {
	hob := func(mem, cpus int) string {
		t.Helper()
		b, err := platformHOB(mem, cpus)
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(b)
	}
	for _, mem := range launch.MemoryLadderMiB {
		if mem <= 24576 && hob(mem, 1) != hob(256, 1) {
			t.Errorf("%d MiB differ from 256 MiB", mem)
		}
	}
	if hob(32768, 1) == hob(256, 1) {
		t.Error("32 GiB have the same device window as 256 MiB")
	}
	if hob(256, 2) == hob(256, 1) {
		t.Error("two vCPUs look like one")
	}
	for _, n := range []int{0, launch.MaxVCPUs + 1} {
		if _, err := platformHOB(256, n); err == nil {
			t.Errorf("%d vCPUs were accepted", n)
		}
	}
}

// built gives a platform that coffer guest build made, if there is one.
func built(t testing.TB) *platform.Platform {
	t.Helper()
	path := os.Getenv("COFFER_PLATFORM")
	if path == "" {
		cache := os.Getenv("COFFER_CACHE")
		if cache == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				t.Skip("no home folder")
			}
			cache = filepath.Join(home, ".cache", "coffer")
		}
		path = filepath.Join(cache, "guest", platform.FileName)
	}
	p, err := platform.Load(path)
	if err != nil {
		if os.Getenv("COFFER_E2E") != "" {
			t.Fatal(err)
		}
		t.Skipf("no platform: %v (coffer guest build makes one)", err)
	}
	return p
}

// The digests are those of event logs of real boots, see profiles.
func TestFirmwareEventsOfRealBoots(t *testing.T) {
	p := built(t)
	want, ok := map[string]map[int]string{ // firmware to number of vCPUs to digest of the PEI volume
		"d9b568def24088c92f34b5479e0ed7e44d0a4d4cea8a0f5716719180bba48106": {
			1: "eae228dc16987fb415cb48daa5ff939ac405e0702ce27ed5b873e6ab1408ee63",
			3: "bbf207cf2e8a31e5238072dfd97b9df157f1344298b75f9d020d707708a27727",
		},
	}[p.Firmware.SHA256]
	if !ok {
		t.Skipf("no recorded boot of firmware %s", p.Firmware.Package)
	}
	spec, err := p.Spec(launch.TPMSim, platform.Release, 256, 1)
	if err != nil {
		t.Fatal(err)
	}
	for cpus, digest := range want {
		spec.VCPUs = cpus
		ev, err := Compute(spec)
		if err != nil {
			t.Fatal(err)
		}
		if len(ev) != 24 {
			t.Errorf("%d events, want 24", len(ev))
		}
		if ev[1].Digest.String() != digest {
			t.Errorf("%d vCPUs: PEI volume %s, want %s", cpus, ev[1].Digest, digest)
		}
		if r := refvalue.Replay(ev, 7).String(); r != "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068" {
			t.Errorf("PCR 7 is %s", r)
		}
		if r := refvalue.Replay(ev, 1).String(); r != "8e9d1fe23131f12d6a523e9c32eb3223d4dc25e14eb5fd60163e7ba8de0f248c" {
			t.Errorf("PCR 1 is %s", r)
		}
	}
}

func TestSetHoldsEveryVCPUCount(t *testing.T) {
	p := built(t)
	read := func(path string) []byte {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	fw, err := OpenFirmware(read(p.Firmware.Code), read(p.Firmware.Vars))
	if err != nil {
		t.Fatal(err)
	}
	im := p.Images[platform.Release]
	kernel := read(im.Kernel)
	before := sha256.Sum256(kernel)
	c, err := NewCalculator(fw, kernel, read(im.Initrd), im.Cmdline)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Set(launch.TPMSim, "release", 512, "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 2, launch.MaxVCPUs} {
		ev, err := c.Events(512, n)
		if err != nil {
			t.Fatal(err)
		}
		got := s.For(n)
		for i := range got {
			got[i].VCPUs = 0
		}
		if !slices.Equal(got, ev) {
			t.Errorf("%d vCPUs: the set does not hold the events of that VM", n)
		}
	}
	if sha256.Sum256(kernel) != before {
		t.Error("the kernel was changed")
	}
	if _, err := NewCalculator(fw, kernel, nil, "line\x00break"); err == nil {
		t.Error("a command line with NUL was accepted")
	}
}

func TestFirmwareRefused(t *testing.T) {
	if _, err := OpenFirmware([]byte("no firmware"), nil); err == nil {
		t.Error("unknown firmware was accepted")
	}
	p := built(t)
	code, err := os.ReadFile(p.Firmware.Code)
	if err != nil {
		t.Fatal(err)
	}
	vars, err := os.ReadFile(p.Firmware.Vars)
	if err != nil {
		t.Fatal(err)
	}
	vars[0x48+28+4] = 0 // the first variable
	if _, err := OpenFirmware(code, vars); err == nil {
		t.Error("a store with variables was accepted")
	}
}

func FuzzFirmware(f *testing.F) {
	if p, err := platform.Load(os.Getenv("COFFER_PLATFORM")); err == nil {
		if b, err := os.ReadFile(p.Firmware.Vars); err == nil {
			f.Add(b)
		}
	}
	f.Add(tdxtest.Kernel("x", 8))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = checkEmptyVars(b)
		_, _, _ = unpackFirmware(b)
		if k, err := parseKernel(b); err == nil {
			_, _ = k.digest(256, 0)
		}
	})
}
