package release_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// program is what a command links, with the types of our own packages.
type program struct {
	fset    *token.FileSet
	listed  map[string]listed
	ours    []string // import paths, the depended on first
	imports types.Importer
	methods map[string]string // of ways: methods with their signatures
	seen    map[string]bool
	done    map[string][]typed
}

type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
}

type typed struct {
	ast  *ast.File
	info *types.Info
}

func loadProgram(t *testing.T, command string) *program {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles", command)
	cmd.Stderr = os.Stderr
	raw, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	g := &program{fset: token.NewFileSet(), listed: map[string]listed{}, methods: map[string]string{}, seen: map[string]bool{}, done: map[string][]typed{}}
	for d := json.NewDecoder(strings.NewReader(string(raw))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		g.listed[p.ImportPath] = p
		if strings.HasPrefix(p.ImportPath, module) {
			g.ours = append(g.ours, p.ImportPath)
		}
	}
	if len(g.ours) < 30 {
		t.Fatalf("only %d packages of ours: the list is wrong", len(g.ours))
	}
	g.imports = importer.ForCompiler(g.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(g.listed[path].Export) })
	for way := range ways {
		g.addMethod(t, way)
	}
	return g
}

// addMethod finds the signature of a method among the ways.
func (g *program) addMethod(t *testing.T, way string) {
	t.Helper()
	if !strings.HasPrefix(way, "(") {
		return
	}
	recv, method, _ := strings.Cut(strings.TrimLeft(way, "(*"), ").")
	dot := strings.LastIndex(recv, ".")
	p, err := g.imports.Import(module + recv[:dot])
	if err != nil {
		t.Fatal(err)
	}
	of := p.Scope().Lookup(recv[dot+1:])
	if of == nil {
		t.Fatalf("%s: no such type", way)
	}
	m, _, _ := types.LookupFieldOrMethod(types.NewPointer(of.Type()), true, p, method)
	if types.IsInterface(of.Type()) {
		m, _, _ = types.LookupFieldOrMethod(of.Type(), true, p, method)
	}
	f, ok := m.(*types.Func)
	if !ok {
		t.Fatalf("%s: no such method", way)
	}
	g.methods[way] = shapeOf(f.Type().(*types.Signature))
}

// shapeOf gives a signature without names, in full.
func shapeOf(s *types.Signature) string {
	var b strings.Builder
	for _, vars := range []*types.Tuple{s.Params(), s.Results()} {
		for v := range vars.Variables() {
			b.WriteString(types.TypeString(v.Type(), nil) + ",")
		}
		b.WriteString(";")
	}
	return b.String()
}

// typed gives the files of a package, with one more if extra is not "".
func (g *program) typed(t *testing.T, path, extra string) []typed {
	t.Helper()
	if l, ok := g.done[path]; ok && extra == "" {
		return l
	}
	p := g.listed[path]
	var files []*ast.File
	for _, n := range p.GoFiles {
		f, err := parser.ParseFile(g.fset, filepath.Join(p.Dir, n), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if extra != "" {
		f, err := parser.ParseFile(g.fset, "extra.go", extra, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}, Types: map[ast.Expr]types.TypeAndValue{}}
	conf := types.Config{Importer: g.imports}
	if _, err := conf.Check(path, g.fset, files, info); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var out []typed
	for _, f := range files {
		out = append(out, typed{f, info})
	}
	if extra == "" {
		g.done[path] = out
	}
	return out
}
