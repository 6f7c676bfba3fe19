package server

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// independent are the clients written from the specification alone, and the fake
// hardware whose evidence they present.
var independent = []string{"rcarclient_test.go", "asclient_test.go", "fakeevidence_test.go"}

// TestClientsShareNoCode compiles the clients without the rest of this package:
// whatever they used of the server would be undefined. A client with the server's
// own code would agree with each of its mistakes.
func TestClientsShareNoCode(t *testing.T) {
	fset := token.NewFileSet()
	std := importer.ForCompiler(fset, "gc", nil)
	sources := map[string]string{}
	for _, name := range independent {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sources[name] = string(b)
	}
	for _, err := range shared(fset, std, sources) {
		t.Error(err)
	}

	const client = "rcarclient_test.go"
	imports := "package server\n\nimport (\n"
	for name, c := range map[string]struct{ old, text, want string }{
		"a package of the project": {imports, imports + "\t_ \"github.com/cofferproject/coffer/api/kbs\"\n", "api/kbs"},
		"somebody's module":        {imports, imports + "\t_ \"golang.org/x/crypto/hkdf\"\n", "x/crypto/hkdf"},
		"linkname":                 {imports, imports + "\t_ \"unsafe\"\n", "unsafe"},
		"a function":               {"", "\nvar _ = New\n", "undefined: New"},
		"a type":                   {"", "\nvar _ *Server\n", "undefined: Server"},
		"a method from elsewhere":  {"", "\nfunc (c *rcar) more() { c.elsewhere() }\n", "elsewhere"},
		"a helper of other tests":  {"", "\nvar _ = newWorld\n", "undefined: newWorld"},
	} {
		changed := map[string]string{}
		for file, text := range sources {
			changed[file] = text
		}
		if c.old == "" {
			changed[client] += c.text
		} else if changed[client] = strings.Replace(changed[client], c.old, c.text, 1); changed[client] == sources[client] {
			t.Fatalf("%s: %s does not begin with its imports", name, client)
		}
		errs := shared(fset, std, changed)
		if !slices.ContainsFunc(errs, func(err error) bool { return strings.Contains(err.Error(), c.want) }) {
			t.Errorf("%s is not noticed: %v", name, errs)
		}
	}
}

// shared says what the sources need beside themselves and the standard library.
func shared(fset *token.FileSet, std types.Importer, sources map[string]string) (errs []error) {
	var files []*ast.File
	for name, text := range sources {
		f, err := parser.ParseFile(fset, name, text, parser.SkipObjectResolution)
		if err != nil {
			return []error{err}
		}
		files = append(files, f)
	}
	conf := types.Config{Importer: standardOnly{std}, Error: func(err error) { errs = append(errs, err) }}
	if _, err := conf.Check("client", fset, files, nil); err != nil && len(errs) == 0 {
		errs = append(errs, err)
	}
	for _, f := range files {
		for _, i := range f.Imports {
			// The type checker knows unsafe without asking; linkname needs it.
			if path, _ := strconv.Unquote(i.Path.Value); path == "unsafe" {
				errs = append(errs, fmt.Errorf("%s: import of unsafe", fset.Position(i.Pos())))
			}
		}
	}
	return errs
}

// standardOnly refuses what is not of the standard library: a module's path begins
// with a domain.
type standardOnly struct{ types.Importer }

func (s standardOnly) Import(path string) (*types.Package, error) {
	if first, _, _ := strings.Cut(path, "/"); path == "C" || strings.Contains(first, ".") {
		return nil, fmt.Errorf("%s is not of the standard library", path)
	}
	return s.Importer.Import(path)
}
