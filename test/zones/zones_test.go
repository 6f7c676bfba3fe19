// Package zones checks that the trust zones of design.md section 2 hold: which
// folder imports which, and what each binary really links. A rule here is the
// first answer to "who has to trust this line of code?".
//
// Trust zone: tests only.
package zones

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cofferproject/coffer"

// mayImport says which of our folders each folder may import beside itself.
// test/ and cmd/ may import everything and are absent.
var mayImport = map[string][]string{
	"api":     {},
	"tee":     {"api"},
	"image":   {"api"},
	"host":    {"api"},
	"guest":   {"api", "tee", "image"},
	"trustee": {"api", "tee"},
	"owner":   {"api", "tee", "image"},
}

// pkg is one package of go list.
type pkg struct {
	path    string
	imports []string
	tests   []string // imports of its tests only
}

// list runs go list over pattern. Everything is listed as it is built: for
// Linux, without cgo.
func list(t *testing.T, args ...string) []string {
	t.Helper()
	return listWith(t, false, args...)
}

func listWith(t *testing.T, cgo bool, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED="+map[bool]string{true: "1", false: "0"}[cgo], "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v: %s", args, err, stderr.String())
	}
	var lines []string
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		if s.Text() != "" {
			lines = append(lines, s.Text())
		}
	}
	return lines
}

func all(t *testing.T) []pkg {
	t.Helper()
	var ps []pkg
	for _, l := range list(t, "-f", `{{.ImportPath}}|{{join .Imports " "}}|{{join .TestImports " "}} {{join .XTestImports " "}}`, module+"/...") {
		f := strings.Split(l, "|")
		ps = append(ps, pkg{f[0], strings.Fields(f[1]), strings.Fields(f[2])})
	}
	return ps
}

// zone gives the top folder of one of our packages, "" for any other.
func zone(path string) string {
	rest, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return ""
	}
	z, _, _ := strings.Cut(rest, "/")
	return z
}

// violation gives what is wrong with from importing to, or "".
func violation(from, to string, test bool) string {
	z, other := zone(from), zone(to)
	allowed, ruled := mayImport[z]
	switch {
	case other == "" || other == z || !ruled:
		return ""
	case slices.Contains(allowed, other):
		return ""
	case test && other == "test": // fakes and vectors
		return ""
	}
	return fmt.Sprintf("%s imports %s: %s may import only %v of ours", from, to, z, allowed)
}

// TestFolders checks the imports of every package, linked by a binary or not.
func TestFolders(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range all(t) {
		seen[zone(p.path)] = true
		for _, i := range p.imports {
			if v := violation(p.path, i, false); v != "" {
				t.Error(v)
			}
		}
		for _, i := range p.tests {
			if v := violation(p.path, i, true); v != "" {
				t.Errorf("test of %s", v)
			}
		}
	}
	for z := range mayImport {
		if !seen[z] {
			t.Errorf("no package in %s/: the rule about it checks nothing", z)
		}
	}
	for z := range seen {
		if _, ok := mayImport[z]; !ok && z != "cmd" && z != "test" {
			t.Errorf("folder %s/ is no trust zone", z)
		}
	}
}

// TestRulesCanFail shows that violation finds what it is for.
func TestRulesCanFail(t *testing.T) {
	for _, c := range []struct {
		from, to string
		test     bool
		bad      bool
	}{
		{"host/vmm", "guest/agent", false, true},
		{"host/vmm", "owner/platform", false, true},
		{"guest/agent", "trustee/kbs", false, true},
		{"guest/agent", "host/vmm", true, true},
		{"api/kbs", "image/manifest", false, true},
		{"image/unpack", "tee/tpm", false, true},
		{"image/unpack", "test/vectors", false, true},
		{"image/unpack", "test/vectors", true, false},
		{"trustee/as", "tee/tpm/verifier", false, false},
		{"test/e2e", "guest/agent", false, false},
	} {
		if got := violation(module+"/"+c.from, module+"/"+c.to, c.test); (got != "") != c.bad {
			t.Errorf("%s importing %s: %q", c.from, c.to, got)
		}
	}
}
