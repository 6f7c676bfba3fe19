package docs

import (
	"slices"
	"strings"
	"testing"
)

// TestCompatibility checks that each endpoint in docs/trustee/compatibility.md has
// a state and a test, which exists in the folder it names.
func TestCompatibility(t *testing.T) {
	tests := map[string][]string{}
	for _, f := range walk(t, "_test.go") {
		for _, m := range testFunc.FindAllStringSubmatch(read(t, f), -1) {
			tests[m[1]] = append(tests[m[1]], f)
		}
	}
	rows := 0
	for l := range strings.Lines(read(t, "docs/trustee/compatibility.md")) {
		c := cells(l)
		if len(c) == 0 || c[0] == "endpoint" || strings.HasPrefix(c[0], "--") {
			continue
		}
		rows++
		if len(c) != 3 || c[1] == "" {
			t.Errorf("%s: %d columns, or no state", strings.TrimSpace(l), len(c))
			continue
		}
		folder, name, _ := strings.Cut(strings.ReplaceAll(c[2], "`", ""), " ")
		if !slices.ContainsFunc(tests[name], func(f string) bool { return strings.HasPrefix(f, folder+"/") }) {
			t.Errorf("%s: no test %q in %s", c[0], name, folder)
		}
	}
	if rows < 20 {
		t.Errorf("only %d endpoints", rows)
	}
}
