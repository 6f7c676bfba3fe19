package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// reasons finds the ids of all denials in the code: constants of type
// denial.Reason, and literals given for a Denial's Reason.
func reasons(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{} // id to the folder it is in
	for _, f := range walk(t, ".go") {
		if strings.HasSuffix(f, "_test.go") || strings.HasPrefix(f, "test/") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, f), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		add := func(e ast.Expr) {
			if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
				if s, err := strconv.Unquote(l.Value); err == nil && s != "" {
					found[s] = filepath.Dir(f)
				}
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				if isReason(n.Type) {
					for _, v := range n.Values {
						add(v)
					}
				}
			case *ast.CallExpr: // denial.Reason("...")
				if isReason(n.Fun) && len(n.Args) == 1 {
					add(n.Args[0])
				}
			case *ast.CompositeLit:
				if s, ok := n.Type.(*ast.SelectorExpr); ok && s.Sel.Name == "Denial" {
					for _, e := range n.Elts {
						if kv, ok := e.(*ast.KeyValueExpr); ok && isIdent(kv.Key, "Reason") {
							add(kv.Value)
						}
					}
				}
			}
			return true
		})
	}
	return found
}

func isReason(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	return ok && s.Sel.Name == "Reason" && isIdent(s.X, "denial")
}

func isIdent(e ast.Expr, name string) bool {
	i, ok := e.(*ast.Ident)
	return ok && i.Name == name
}

var denialID = regexp.MustCompile("^`([a-z0-9-]+)`$")

// TestDenials compares docs/denials.md with the code, both ways.
func TestDenials(t *testing.T) {
	inCode := reasons(t)
	if len(inCode) < 20 {
		t.Fatalf("found only %d ids in the code: the search is broken", len(inCode))
	}
	inDoc := map[string]bool{}
	for l := range strings.Lines(read(t, "docs/denials.md")) {
		c := cells(l)
		if len(c) == 0 {
			continue
		}
		if m := denialID.FindStringSubmatch(c[0]); m != nil {
			if inDoc[m[1]] {
				t.Errorf("docs/denials.md has two rows for %s", m[1])
			}
			inDoc[m[1]] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(inCode)) {
		if !regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`).MatchString(id) {
			t.Errorf("%s: %q is no id", inCode[id], id)
		}
		if !inDoc[id] {
			t.Errorf("docs/denials.md lacks %s (%s)", id, inCode[id])
		}
	}
	for id := range inDoc {
		if inCode[id] == "" {
			t.Errorf("docs/denials.md has %s, which no code gives", id)
		}
	}
}
