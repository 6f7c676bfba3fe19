package zones

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/simhw"
)

// maxGuest bounds the release guest's binary: every byte of it is measured,
// loaded and trusted.
const maxGuest = 16 << 20

// simMark is in the name of every symbol of a simulated attester.
const simMark = module + "/tee/"

func buildGuest(t *testing.T, cmd string, flags ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), cmd)
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-o", out}, flags...)
	c := exec.Command("go", append(args, module+"/cmd/"+cmd)...)
	c.Env = append(c.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if b, err := c.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v: %s", cmd, err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// simulated lists the simulated attesters' symbols of a binary with symbols.
func simulated(t *testing.T, b []byte) []string {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	syms, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, s := range syms {
		if rest, ok := strings.CutPrefix(s.Name, simMark); ok && strings.Contains(rest, "/sim.") {
			found = append(found, s.Name)
		}
	}
	return found
}

// TestGuestHoldsNoSimulation looks into the built binary, whatever the build
// rules promise: the release guest has no symbol of a simulated attester and
// does not even contain the name of such a package.
func TestGuestHoldsNoSimulation(t *testing.T) {
	release := buildGuest(t, "coffer-guest")
	if s := simulated(t, release); len(s) != 0 {
		t.Errorf("coffer-guest holds %d symbols of simulated attesters, such as %s", len(s), s[0])
	}
	sim := buildGuest(t, "coffer-guest-sim")
	for _, name := range []string{"/tee/tpm/sim", "/tee/simhw/sim", simhw.PortName} {
		if i := bytes.Index(release, []byte(name)); i >= 0 {
			t.Errorf("coffer-guest contains %q", release[max(0, i-40):i+40])
		}
		// The same search finds it where it has to be.
		if !bytes.Contains(sim, []byte(name)) {
			t.Errorf("coffer-guest-sim does not contain %q: this test would find it nowhere", name)
		}
	}
	// The devices' attester is in both, and works on what is played in one alone.
	for name, b := range map[string][]byte{"coffer-guest": release, "coffer-guest-sim": sim} {
		if !bytes.Contains(b, []byte("/tee/nvidia/attester")) {
			t.Errorf("%s has no attester for devices", name)
		}
		if i := bytes.Index(b, []byte("/tee/nvidia/sim")); i >= 0 {
			t.Errorf("%s holds a simulated device: %q", name, b[max(0, i-40):i+40])
		}
	}
	const device = "simhw/sim.(*Device).DeviceEvidence"
	if bytes.Contains(release, []byte(device)) || !bytes.Contains(sim, []byte(device)) {
		t.Errorf("%s: in the release guest, or nowhere", device)
	}
	if len(simulated(t, sim)) == 0 {
		t.Error("no simulated attester in coffer-guest-sim: this test would find none anywhere")
	}
}

// TestGuestIsSmallAndStatic checks what goes into the image: stripped, as
// coffer guest build makes it.
func TestGuestIsSmallAndStatic(t *testing.T) {
	b := buildGuest(t, "coffer-guest", "-ldflags=-s -w -buildid=")
	t.Logf("coffer-guest is %.1f MB", float64(len(b))/1e6)
	if len(b) > maxGuest {
		t.Errorf("coffer-guest has %d bytes, more than %d", len(b), maxGuest)
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("coffer-guest is not static: it has a %v segment", p.Type)
		}
	}
}
