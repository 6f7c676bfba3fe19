package release_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// Secrets are readable in one place and leave by one function. A new caller of
// what opens a secret must come through here, and through review.
func TestThereIsOneGate(t *testing.T) {
	allowed := map[string][]string{
		"keyring.Decrypt": {"release/internal/vault/vault.go"},
		"vault.Open":      {"release/release.go"},
		"kbs.Seal":        {"release/release.go"},
	}
	found := map[string]bool{}
	err := filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, 0)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel("..", p)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x := ""
			switch v := sel.X.(type) {
			case *ast.Ident:
				x = v.Name
			case *ast.SelectorExpr: // g.vault.Open
				x = v.Sel.Name
			}
			name := x + "." + sel.Sel.Name
			files, watched := allowed[name]
			if !watched {
				return true
			}
			found[name] = true
			for _, a := range files {
				if rel == a {
					return true
				}
			}
			t.Errorf("%s uses %s: another way out for a secret", rel, name)
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range allowed {
		if !found[name] {
			t.Errorf("%s was not found at all: the test looks for the wrong name", name)
		}
	}
}
