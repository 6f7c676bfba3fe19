package trustee_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pages are the documents whose blocks of sh run, each in a world of its own.
var pages = []string{"secrets.md", "policies.md", "operations.md", "audit.md", "roles.md", "keys.md", "install.md", "configure.md", "collateral.md", "secret-stores.md", "identity.md"}

// TestSnippets runs what the documents of the trustee tell people to type.
func TestSnippets(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./cmd/coffer", "./cmd/coffer-trustee")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v: %s", err, out)
	}
	for _, page := range pages {
		t.Run(page, func(t *testing.T) { runPage(t, bin, page) })
	}
}

func runPage(t *testing.T, bin, page string) {
	b, err := os.ReadFile(filepath.Join("../../docs/trustee", page))
	if err != nil {
		t.Fatal(err)
	}
	script := blocks(string(b))
	if strings.Count(script, "coffer") < 2 {
		t.Fatalf("only this was found to run: %q", script)
	}
	// The documents' address may be taken on this machine.
	ops := freeAddress(t)
	script = strings.ReplaceAll(script, "127.0.0.1:19464", ops)
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	env := append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "COFFER_STATE="+state, "HOME="+dir)
	server := exec.Command(filepath.Join(bin, "coffer-trustee"), "serve", "--die-with-parent", "--ops-listen", ops)
	server.Env, server.Dir = env, dir
	ready, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(os.Interrupt)
		_ = server.Wait()
	})
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the trustee does not start: %v", err)
	}
	sh := exec.CommandContext(t.Context(), "sh", "-eux")
	sh.Stdin, sh.Env, sh.Dir, sh.WaitDelay = strings.NewReader(script), env, dir, 10*time.Second
	if out, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// blocks gives the fenced blocks of sh, one after the other.
func blocks(text string) string {
	var out strings.Builder
	in := false
	for l := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(l, "```"):
			in = !in && strings.TrimSpace(l) == "```sh"
		case in:
			out.WriteString(l)
		}
	}
	return out.String()
}
