package docs

import (
	"encoding/json"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)

// TestFeatures checks that docs/features.md has every row once and that each
// test it names exists in the folder it names.
func TestFeatures(t *testing.T) {
	tests := map[string][]string{}
	for _, f := range walk(t, "_test.go") {
		for _, m := range testFunc.FindAllStringSubmatch(read(t, f), -1) {
			tests[m[1]] = append(tests[m[1]], f)
		}
	}
	seen := map[int]bool{}
	for l := range strings.Lines(read(t, "docs/features.md")) {
		c := cells(l)
		if len(c) == 0 {
			continue
		}
		n, err := strconv.Atoi(c[0])
		if err != nil {
			continue
		}
		if len(c) != 4 || seen[n] {
			t.Errorf("row %d: %d columns, or a second row of this number", n, len(c))
			continue
		}
		seen[n] = true
		state := regexp.MustCompile(`^(done|partial|not planned|planned( \(issue \d+\))?)$`)
		if !state.MatchString(c[2]) {
			t.Errorf("row %d: state %q", n, c[2])
		}
		folder, name, _ := strings.Cut(strings.ReplaceAll(c[3], "`", ""), " ")
		if c[3] == "" {
			if c[2] == "done" {
				t.Errorf("row %d is done and nothing shows it", n)
			}
			continue
		}
		if !slices.ContainsFunc(tests[name], func(f string) bool { return strings.HasPrefix(f, folder+"/") }) {
			t.Errorf("row %d: no test %s in %s", n, name, folder)
		}
	}
	for n := 1; n <= 250; n++ {
		if !seen[n] {
			t.Errorf("row %d is missing", n)
		}
	}
	if len(seen) != 250 {
		t.Errorf("%d rows, want 250", len(seen))
	}
}

// TestDependencies checks that docs/dependencies.md names every module that
// a package of ours imports, and no other.
func TestDependencies(t *testing.T) {
	doc := read(t, "docs/dependencies.md")
	cmd := exec.Command("go", "list", "-f", `{{if not .Standard}}{{join .Imports "\n"}}{{end}}`, "./...")
	cmd.Dir = root
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=1") // with what coffer-pkcs11 imports
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	imports := slices.Compact(slices.Sorted(strings.Lines(string(out))))
	mods := exec.Command("go", "list", "-m", "-json", "all")
	mods.Dir = root
	list, err := mods.Output()
	if err != nil {
		t.Fatal(err)
	}
	var modules []string
	for d := json.NewDecoder(strings.NewReader(string(list))); d.More(); {
		var m struct {
			Path string
			Main bool
		}
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		if !m.Main {
			modules = append(modules, m.Path)
		}
	}
	linked := map[string]bool{}
	for _, i := range imports {
		i = strings.TrimSpace(i)
		of := "" // a module may lie inside another one's path: the longest is it
		for _, m := range modules {
			if (i == m || strings.HasPrefix(i, m+"/")) && len(m) > len(of) {
				of = m
			}
		}
		if of != "" {
			linked[of] = true
		}
	}
	for m := range linked {
		if !strings.Contains(doc, "| "+m+" |") {
			t.Errorf("docs/dependencies.md has no sentence about %s", m)
		}
	}
	if len(linked) < 5 {
		t.Errorf("found only %d modules in use: the search is broken", len(linked))
	}
	for l := range strings.Lines(doc) {
		if c := cells(l); len(c) == 2 && strings.Contains(c[0], ".") && !linked[c[0]] {
			t.Errorf("docs/dependencies.md has %s, which nothing of ours imports", c[0])
		}
	}
}

var (
	quoted = regexp.MustCompile(`"([a-z0-9.+-]+)"`)
	debs   = regexp.MustCompile(`(?s)bookworm \]; then\s+need\+=\(([^)]*)\)`)
	libs   = regexp.MustCompile(`(?s)HostLibraries = \[\]string\{(.*?)\n\}`)
	codes  = regexp.MustCompile(`(?m)^\s*Exit\w+\s*= (\d+)`)
)

// TestHostLibraries keeps the two lists of QEMU's libraries equal: the script
// that installs them and the message of coffer guest build.
func TestHostLibraries(t *testing.T) {
	script := debs.FindStringSubmatch(read(t, "scripts/deps.sh"))
	source := libs.FindStringSubmatch(read(t, "owner/guestimage/build.go"))
	if script == nil || source == nil {
		t.Fatal("one of the lists was not found")
	}
	var want []string
	for _, m := range quoted.FindAllStringSubmatch(source[1], -1) {
		want = append(want, m[1])
	}
	have := strings.Fields(script[1])
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("scripts/deps.sh installs %v,\nowner/guestimage names %v", have, want)
	}
}

// TestExitCodes checks that docs/exit-codes.md has a row for each.
func TestExitCodes(t *testing.T) {
	doc := read(t, "docs/exit-codes.md")
	found := codes.FindAllStringSubmatch(read(t, "owner/cli/exit.go"), -1)
	if len(found) < 5 {
		t.Fatalf("found %d exit codes in the code", len(found))
	}
	for _, m := range found {
		if !strings.Contains(doc, "\n| "+m[1]+" |") {
			t.Errorf("docs/exit-codes.md has no row for %s", m[1])
		}
	}
}
