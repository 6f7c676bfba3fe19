package docs

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	flagLine = regexp.MustCompile(`(?m)^  -([a-z0-9-]+)`)
	ruleKey  = regexp.MustCompile(`(?m)^\t\t"([a-z0-9_.]+)":`)
	named    = regexp.MustCompile("`([a-z]+(?:/[a-z0-9]+)*)` (Test[A-Za-z0-9]+(?:, Test[A-Za-z0-9]+)*)")
)

// TestConfigurePage finds every flag of coffer-trustee serve and every key of the
// published configuration file on docs/trustee/configure.md.
func TestConfigurePage(t *testing.T) {
	page := read(t, "docs/trustee/configure.md")
	cmd := exec.Command("go", "run", "./cmd/coffer-trustee", "serve", "--help")
	cmd.Dir = root
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	help, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, help)
	}
	flags := flagLine.FindAllStringSubmatch(string(help), -1)
	for _, m := range flags {
		if !strings.Contains(page, "`--"+m[1]+"`") {
			t.Errorf("the page lacks --%s", m[1])
		}
	}
	keys := ruleKey.FindAllStringSubmatch(read(t, "trustee/kbsconfig/rules.go"), -1)
	for _, m := range keys {
		if !strings.Contains(page, "| `"+m[1]+"` |") {
			t.Errorf("the page lacks the key %s", m[1])
		}
	}
	if len(flags) < 40 || len(keys) < 50 {
		t.Errorf("%d flags, %d keys: the search is broken", len(flags), len(keys))
	}
}

// TestThreatModelNamesTests looks for each test that the threat model names.
func TestThreatModelNamesTests(t *testing.T) {
	tests := map[string][]string{}
	for _, f := range walk(t, "_test.go") {
		for _, m := range testFunc.FindAllStringSubmatch(read(t, f), -1) {
			tests[m[1]] = append(tests[m[1]], f)
		}
	}
	found := named.FindAllStringSubmatch(read(t, "docs/trustee/threat-model.md"), -1)
	for _, m := range found {
		for name := range strings.SplitSeq(m[2], ", ") {
			if !slices.ContainsFunc(tests[name], func(f string) bool { return strings.HasPrefix(f, m[1]+"/") }) {
				t.Errorf("no test %s in %s", name, m[1])
			}
		}
	}
	if len(found) < 12 {
		t.Errorf("only %d tests named: the search is broken", len(found))
	}
}
