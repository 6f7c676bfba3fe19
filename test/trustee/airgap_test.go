package trustee_test

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/collateral"
	snpverifier "github.com/cofferproject/coffer/tee/snp/verifier"
	"github.com/cofferproject/coffer/test/vectors"
	"github.com/cofferproject/coffer/trustee/fetch/fetchtest"
)

// program is a trustee in a process of its own, and the owner's tool beside it.
type program struct {
	t        *testing.T
	bin, dir string
}

func startProgram(t *testing.T, bin string, flags ...string) *program {
	t.Helper()
	p := &program{t, bin, t.TempDir()}
	c := exec.Command(filepath.Join(bin, "coffer-trustee"), append([]string{"serve", "--die-with-parent"}, flags...)...)
	c.Env, c.Dir = p.env(), p.dir
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(os.Interrupt)
		_ = c.Wait()
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the trustee does not start: %v", err)
	}
	return p
}

func (p *program) env() []string {
	return append(os.Environ(), "COFFER_STATE="+filepath.Join(p.dir, "state"), "HOME="+p.dir)
}

// coffer runs the owner's tool and gives its exit code.
func (p *program) coffer(args ...string) (stdout string, code int) {
	p.t.Helper()
	c := exec.Command(filepath.Join(p.bin, "coffer"), args...)
	c.Env, c.Dir = p.env(), p.dir
	out, err := c.Output()
	if err != nil && c.ProcessState == nil {
		p.t.Fatal(err)
	}
	return string(out), c.ProcessState.ExitCode()
}

// A trustee without a network gets a chip's certificate by way of one that has it,
// with the programs as people use them.
func TestAirGap(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./cmd/coffer", "./cmd/coffer-trustee")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v: %s", err, out)
	}
	vcek, err := os.ReadFile(filepath.Join(vectors.Dir(t, "snp"), "test-vcek.der"))
	if err != nil {
		t.Fatal(err)
	}
	const origin = snpverifier.KDS + "vcek/v1/Milan/c38427a30d4c7af9d96f7a15b97269825a64cb76a2352ffd5d18115d89ad473f8e8c0bcd9a5d9286612bad4aadfb4426205a3b9e4fea82301135a170e477524e?blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115"
	kds := fetchtest.New(t)
	kds.Publish(&collateral.Item{Origin: origin, Body: vcek}, "")
	online := startProgram(t, bin, "--fetch", "amd="+kds.URL, "--fetch-pace", "20ms", "--fetch-timeout", "5s")
	offline := startProgram(t, bin)

	if out, code := online.coffer("collateral", "want", origin); code != 0 || !strings.Contains(out, "wanted") && !strings.Contains(out, "asked") {
		t.Fatalf("want: %d %s", code, out)
	}
	if out, code := online.coffer("collateral", "want", "https://vendor.example/crl"); code == 0 {
		t.Errorf("an origin that nobody fetches is wanted: %s", out)
	}
	if out, code := offline.coffer("collateral", "want", origin); code == 0 {
		t.Errorf("a trustee that fetches nothing wants: %s", out)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		out, code := online.coffer("collateral", "ls")
		if code == 0 && strings.Contains(out, origin) {
			break
		}
		if time.Now().After(end) {
			out, _ = online.coffer("collateral", "status")
			t.Fatalf("not fetched: %s", out)
		}
	}
	var s trusteeapi.CollateralStatus
	out, code := online.coffer("collateral", "status", "--output", "json")
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != 0 || len(s.Vendors) != 1 || s.Vendors[0].Place != kds.URL+"/" || len(s.Items) != len(snpverifier.StandingOrigins()) || len(s.Wanted) != 0 {
		t.Errorf("status: %d %v %s", code, err, out)
	}
	bundle := filepath.Join(t.TempDir(), "bundle.json")
	if out, code := online.coffer("collateral", "export", "--origin-prefix", snpverifier.KDS, bundle); code != 0 {
		t.Fatalf("export: %d %s", code, out)
	}
	if out, code := offline.coffer("collateral", "import", bundle); code != 0 || !strings.Contains(out, "1 items taken") {
		t.Errorf("import: %d %s", code, out)
	}
	if out, code := offline.coffer("collateral", "export", "-"); code != 0 || !strings.Contains(out, `"items":[{`) {
		t.Errorf("export to the standard output: %d %.200s", code, out)
	}
	if out, code := offline.coffer("collateral", "ls"); code != 0 || !strings.Contains(out, origin) {
		t.Errorf("ls: %d %s", code, out)
	}
}
