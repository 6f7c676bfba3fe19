package vectors

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// consumer is the test that reads the vectors which a pattern names.
type consumer struct{ files, folder, test string }

var consumers = []consumer{
	{"as/evidence.json", "trustee/server", "TestAttestationServiceVector"},
	{"as/request.json.template", "trustee/server", "TestAttestationServiceVector"},
	{"as/example.token.json", "api/ear", "TestExampleToken"},
	{"as/jwk/signing-key.pem", "api/ear", "TestJWKSVector"},
	{"as/jwk/cert-chain.pem", "api/ear", "TestJWKSVector"},
	{"as/jwk/expected-jwks.json", "api/ear", "TestJWKSVector"},
	{"kbs/scenario0[1-4]-jwk.json", "api/ear", "TestJWKTrustScenarios"},
	{"kbs/scenario0[1-4]-trust.pem", "api/ear", "TestJWKTrustScenarios"},
	{"kbs/configs/*.toml", "trustee/kbsconfig", "TestVectors"},
}

// exempt are files about the vectors.
var exempt = []string{"README.md", "LICENSE", "NOTICE"}

// TestEveryVectorIsConsumed fails for a vector of the trustee's services that no
// test reads.
func TestEveryVectorIsConsumed(t *testing.T) {
	var files []string
	for _, set := range []string{"as", "kbs"} {
		dir := Dir(t, set)
		err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			rel, err := filepath.Rel(dir, p)
			files = append(files, path.Join(set, filepath.ToSlash(rel)))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, problem := range unconsumed(t, files, consumers) {
		t.Error(problem)
	}
}

func TestUnconsumedIsNoticed(t *testing.T) {
	one := []string{"as/evidence.json"}
	for name, c := range map[string]struct {
		files []string
		table []consumer
		want  string // "": nothing to notice
	}{
		"consumed":             {one, consumers[:1], ""},
		"about the vectors":    {append([]string{"as/README.md", "as/jwk/LICENSE"}, one...), consumers[:1], ""},
		"by a pattern":         {[]string{"kbs/configs/new.toml"}, consumers[len(consumers)-1:], ""},
		"in no row":            {append([]string{"as/new.json"}, one...), consumers[:1], "as/new.json: no test consumes it"},
		"in a folder below":    {append([]string{"as/new/evidence.json"}, one...), consumers[:1], "as/new/evidence.json: no test consumes it"},
		"a row without a file": {one, consumers[:2], "as/request.json.template: no such file"},
		"no such test":         {one, []consumer{{one[0], "trustee/server", "TestNobodyWrote"}}, "no TestNobodyWrote in trustee/server"},
		"another package":      {one, []consumer{{one[0], "api/ear", "TestAttestationServiceVector"}}, "no TestAttestationServiceVector in api/ear"},
		"a test of the folder": {one, []consumer{{one[0], "api/ear", "TestExampleToken"}}, "as/evidence.json: api/ear TestExampleToken does not name it"},
		"the name elsewhere":   {[]string{"kbs/evidence.json"}, []consumer{{"kbs/evidence.json", "trustee/server", "TestAttestationServiceVector"}}, "does not name it"},
		"a fifth scenario":     {[]string{"kbs/scenario05-jwk.json"}, []consumer{{"kbs/scenario*-jwk.json", "api/ear", "TestJWKTrustScenarios"}}, "does not name it"},
	} {
		got := unconsumed(t, c.files, c.table)
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// unconsumed gives what is wrong between files and table.
func unconsumed(t *testing.T, files []string, table []consumer) (problems []string) {
	t.Helper()
	found := make([]bool, len(table))
	for _, f := range files {
		if slices.Contains(exempt, path.Base(f)) {
			continue
		}
		i := slices.IndexFunc(table, func(c consumer) bool {
			ok, err := path.Match(c.files, f)
			if err != nil {
				t.Fatalf("%s: %v", c.files, err)
			}
			return ok
		})
		if i < 0 {
			problems = append(problems, f+": no test consumes it")
			continue
		}
		found[i] = true
		c := table[i]
		texts, ok := literals(t, c.folder, c.test)
		switch {
		case !ok:
			problems = append(problems, fmt.Sprintf("%s: no %s in %s", f, c.test, c.folder))
		case !names(texts, f):
			problems = append(problems, fmt.Sprintf("%s: %s %s does not name it", f, c.folder, c.test))
		}
	}
	for i, c := range table {
		if !found[i] {
			problems = append(problems, c.files+": no such file")
		}
	}
	return problems
}

// literals gives the strings in the body of a test; false where there is no such test.
func literals(t *testing.T, folder, test string) (texts []string, ok bool) {
	t.Helper()
	sources, err := filepath.Glob(filepath.Join("../..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sources {
		f, err := parser.ParseFile(token.NewFileSet(), s, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, is := d.(*ast.FuncDecl)
			if !is || fn.Recv != nil || fn.Name.Name != test {
				continue
			}
			ok = true
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				if l, is := n.(*ast.BasicLit); is && l.Kind == token.STRING {
					text, err := strconv.Unquote(l.Value)
					if err != nil {
						t.Fatal(err)
					}
					texts = append(texts, text)
				}
				return true
			})
		}
	}
	return texts, ok
}

// names tells whether a test with these strings names the file: each folder, and
// the file itself, whole, by a pattern, or put together.
func names(texts []string, file string) bool {
	folders, base := path.Split(file)
	for f := range strings.SplitSeq(strings.TrimSuffix(folders, "/"), "/") {
		if !slices.Contains(texts, f) {
			return false
		}
	}
	pattern := func(s string) bool {
		ok, err := path.Match(s, base)
		return strings.HasPrefix(s, "*.") && err == nil && ok
	}
	return slices.ContainsFunc(texts, pattern) || concatenates(texts, base)
}

func concatenates(texts []string, s string) bool {
	return s == "" || slices.ContainsFunc(texts, func(part string) bool {
		rest, ok := strings.CutPrefix(s, part)
		return ok && part != "" && concatenates(texts, rest)
	})
}
