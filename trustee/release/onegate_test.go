package release_test

import (
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cofferproject/coffer/"

// ways are the functions on a secret's way out, with the functions that may refer to
// them. Methods stand for all of their name and signature, of whatever type, so that
// an interface is no way around. A new name in this table must come through review:
// what it lets out must be in the audit log before.
var ways = map[string][]string{
	// Decrypting: from a wrapped key to the gate.
	"(trustee/keyring.KEK).Unwrap": {
		"trustee/keyring.Decrypt",
		"trustee/keyring.Rewrap",  // a data key, from one envelope key to another, and no secret
		"trustee/keyring.OpenKEK", // of a key service: the envelope key itself, at the start
	},
	"trustee/keyring.gcmOpen": {"trustee/keyring.Decrypt", "(*trustee/keyring.FileKEK).Unwrap"},
	"trustee/keyring.Decrypt": {"(*trustee/release/internal/vault.Vault).Open", "trustee/keyring.load", "(*trustee/keyring.TokenKeys).decrypt", "(*trustee/keyring.Identities).decrypt", "(trustee/keyring.Placed).Unwrap"},
	"(*trustee/release/internal/vault.Vault).Open": {
		"(*trustee/release.Gate).release",
		"(*trustee/release/internal/vault.Vault).Rollback", // into a new version
		"(*trustee/release/internal/vault.Vault).Same",     // compares, and says yes or no
	},
	// An oracle for guesses: for who owns store and envelope key alone.
	"(*trustee/release/internal/vault.Vault).Same": {"(*trustee/release.Gate).Same"},
	"(*trustee/release.Gate).Same":                 {"(*trustee/server.target).IsSecret"},
	// Keys of the trustee's own, at two places which are no secret's.
	"(trustee/keyring.Placed).Unwrap": {"trustee/store/authentic.Open", "trustee/backup.NewReader"},
	// From stores outside: a store's own Fetch is called by the set alone, in a flight
	// that the gate has asked for.
	"(trustee/secretstore.Store).Fetch": {"(*trustee/secretstore.Set).fly"},
	"(*trustee/secretstore.Set).Fetch":  {"(*trustee/release.Gate).fetch"},
	"(*trustee/release.Gate).fetch":     {"(*trustee/release.Gate).release"},
	// Encrypting to a guest.
	"api/kbs.Seal": {
		"(*trustee/release.Gate).release",
		"(*trustee/release.Gate).use", // what a plugin has given, by the same rules
	},
	// All of the store at once: a backup has what is encrypted as it is, and the
	// whole under the envelope key. readKey looks whether there is anything.
	"(trustee/store.Dumper).Dump": {"trustee/backup.Write", "(*trustee/store/authentic.Store).Dump", "trustee/store/authentic.readKey",
		"trustee/server.underOldKey"}, // lists places, of ciphertexts
}

// contentBucket is where the ciphertexts are; nobody else spells it.
const contentBucket, contentOwner = "secret-content", "trustee/release/internal/vault"

var loaded *program

// trustee loads what coffer-trustee links, once.
func trustee(t *testing.T) *program {
	t.Helper()
	if loaded == nil {
		loaded = loadProgram(t, "../../cmd/coffer-trustee")
	}
	return loaded
}

// TestThereIsOneGate resolves every name in what coffer-trustee links and finds who
// refers to a function on a secret's way out, be it called, kept in a variable, or
// reached by an interface.
func TestThereIsOneGate(t *testing.T) {
	g := trustee(t)
	for _, p := range g.check(t, "", "") {
		t.Error(p)
	}
	for name := range ways {
		if !g.seen[name] {
			t.Errorf("%s was not found at all: the test looks for the wrong name", name)
		}
	}
	if !g.seen[contentBucket] {
		t.Errorf("nobody spells %q: the test looks for the wrong name", contentBucket)
	}
}

// What the test must find, each as one more file of a package.
func TestAnotherWayIsFound(t *testing.T) {
	g := trustee(t)
	const gate = "import (\n\"context\"\n\"github.com/cofferproject/coffer/trustee/keyring\"\n)\nvar _ keyring.KEK\nvar _ context.Context\n"
	for name, tc := range map[string]struct{ pkg, code string }{
		"under another name": {"trustee/release", gate + `func (g *Gate) leak(ctx context.Context) ([]byte, error) { v := g.vault; return v.Open(ctx, "", "", 1, nil) }`},
		"as a value":         {"trustee/release", gate + `func (g *Gate) leak() any { return g.vault.Open }`},
		"as a variable":      {"trustee/release", gate + `var leak = keyring.Decrypt`},
		"by an interface": {"trustee/release", gate + `type opener interface{ Open(context.Context, string, string, uint64, []byte) ([]byte, error) }
func leak(ctx context.Context, o opener) ([]byte, error) { return o.Open(ctx, "", "", 1, nil) }`},
		"embedded": {"trustee/release", `import "context"
import "github.com/cofferproject/coffer/trustee/release/internal/vault"
type all struct{ *vault.Vault }
func leak(ctx context.Context, a all) ([]byte, error) { return a.Open(ctx, "", "", 1, nil) }`},
		"under an import's other name": {"trustee/adminapi", `import k "github.com/cofferproject/coffer/trustee/keyring"
func leak(kek k.KEK) ([]byte, error) { return k.Decrypt(nil, kek, "", nil) }`},
		"with the key itself": {"trustee/adminapi", `import k "github.com/cofferproject/coffer/trustee/keyring"
func leak(kek k.KEK) ([]byte, error) { return kek.Unwrap(nil, nil, nil) }`},
		"sealed by another": {"trustee/kbsapi", `import k "github.com/cofferproject/coffer/api/kbs"
func leak(t *k.TEEKey) ([]byte, error) { f := k.Seal; return f(t, nil) }`},
		"the bucket": {"trustee/adminapi", `const leak = "secret-" + "content"`},
		"a dump": {"trustee/adminapi", `import "github.com/cofferproject/coffer/trustee/store"
func leak(d store.Dumper) any { return d.Dump }`},
		"nothing": {"trustee/release", "func (g *Gate) harmless() {}"},
	} {
		t.Run(name, func(t *testing.T) {
			p := module + tc.pkg
			found := g.check(t, p, "package "+tc.pkg[strings.LastIndex(tc.pkg, "/")+1:]+"\n"+tc.code)
			if want := name != "nothing"; (len(found) > 0) != want {
				t.Errorf("found %q", found)
			}
		})
	}
}

// check gives what is wrong, with one more file in a package if extra is not "".
func (g *program) check(t *testing.T, only, extra string) (out []string) {
	t.Helper()
	for _, path := range g.ours {
		if only != "" && path != only {
			continue
		}
		for _, f := range g.typed(t, path, extra) {
			out = append(out, g.file(path, f.ast, f.info)...)
		}
	}
	return out
}

// file looks at one file.
func (g *program) file(path string, f *ast.File, info *types.Info) (out []string) {
	for _, d := range f.Decls {
		from := "a variable of " + path
		if fd, ok := d.(*ast.FuncDecl); ok {
			from = info.Defs[fd.Name].(*types.Func).FullName()
			if s := strip(from); s == "(*trustee/release.Gate).release" || s == "(*trustee/release.Gate).use" {
				out = append(out, recordFirst(fd, info)...)
			}
		}
		from = strip(from)
		ast.Inspect(d, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok {
				if v := info.Types[e].Value; v != nil && v.Kind() == constant.String && constant.StringVal(v) == contentBucket {
					g.seen[contentBucket] = true
					if strip(path) != contentOwner {
						out = append(out, from+" spells the bucket of the secrets' content")
					}
				}
			}
			id, ok := n.(*ast.Ident)
			if !ok {
				return true
			}
			callee, ok := info.Uses[id].(*types.Func)
			if !ok {
				return true
			}
			for _, way := range g.waysOf(callee) {
				g.seen[way] = true
				if !slices.Contains(ways[way], from) {
					out = append(out, g.fset.Position(id.Pos()).String()+": "+from+" refers to "+way+": another way out for a secret")
				}
			}
			return true
		})
	}
	return out
}

// waysOf gives the entries that a function comes under: its own, and those of methods
// that an interface could take for it.
func (g *program) waysOf(f *types.Func) (out []string) {
	name := strip(f.Origin().FullName())
	if _, ok := ways[name]; ok {
		return []string{name}
	}
	sig := f.Type().(*types.Signature)
	if sig.Recv() == nil {
		return nil
	}
	for way, shape := range g.methods {
		if strings.HasSuffix(way, ")."+f.Name()) && shape == shapeOf(sig) {
			out = append(out, way)
		}
	}
	return out
}

// recordFirst checks that the gate gives nothing before the audit log has it.
func recordFirst(fd *ast.FuncDecl, info *types.Info) (out []string) {
	recorded := token.Pos(0)
	ast.Inspect(fd, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && info.Uses[s.Sel] != nil {
			if f, ok := info.Uses[s.Sel].(*types.Func); ok && strip(f.FullName()) == "(*trustee/audit.Log).Append" {
				recorded = s.Pos()
			}
		}
		return true
	})
	if recorded == 0 {
		return []string{"the gate records nothing"}
	}
	ast.Inspect(fd, func(n ast.Node) bool {
		if _, ok := n.(*ast.FuncLit); ok {
			return false
		}
		if r, ok := n.(*ast.ReturnStmt); ok && r.Pos() < recorded {
			if id, ok := r.Results[0].(*ast.Ident); !ok || id.Name != "nil" {
				out = append(out, "the gate gives something before it is recorded")
			}
		}
		return true
	})
	return out
}

func strip(name string) string { return strings.ReplaceAll(name, module, "") }
