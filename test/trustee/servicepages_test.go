package trustee_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestServicePages runs what these documents tell people to type. Their blocks of
// sh start and stop the trustee themselves.
func TestServicePages(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./cmd/coffer", "./cmd/coffer-trustee")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v: %s", err, out)
	}
	for _, page := range []string{"migrate.md", "attestation-service.md", "separate-services.md", "reference-values.md"} {
		t.Run(page, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join("../../docs/trustee", page))
			if err != nil {
				t.Fatal(err)
			}
			var script strings.Builder
			in := false
			for l := range strings.Lines(string(b)) {
				switch {
				case strings.HasPrefix(l, "```"):
					in = !in && strings.TrimSpace(l) == "```sh"
				case in:
					script.WriteString(l)
				}
			}
			if n := strings.Count(script.String(), "coffer-trustee serve") + strings.Count(script.String(), "coffer-trustee kbs"); n < 1 {
				t.Fatalf("only this was found to run: %q", script.String())
			}
			dir := t.TempDir()
			// A trustee that does not come up is waited for in the page without an end.
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			sh := exec.CommandContext(ctx, "sh", "-eu")
			// Killed as a group, since the shell's trap does not run then.
			sh.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			sh.Cancel = func() error { return syscall.Kill(-sh.Process.Pid, syscall.SIGKILL) }
			sh.Stdin = strings.NewReader("trap 'kill $! 2>/dev/null || true' EXIT\nset -x\n" + quietPorts(t).Replace(script.String()))
			sh.Env, sh.Dir, sh.WaitDelay = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+dir), dir, 10*time.Second
			if out, err := sh.CombinedOutput(); ctx.Err() != nil {
				t.Fatalf("not done in time, %v: %s", err, out)
			} else if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		})
	}
}

// quietPorts puts other ports in place of those that the pages name: free ones, below
// those that the kernel gives to connections.
func quietPorts(t *testing.T) *strings.Replacer {
	t.Helper()
	var pairs []string
	taken := map[string]bool{}
	for _, named := range []string{":50003", ":50004", ":8443"} {
		port := ""
		for try := 0; port == "" || taken[port]; try++ {
			if try == 1000 {
				t.Fatal("no port is free")
			}
			p := fmt.Sprint(":", 20000+rand.IntN(12000))
			if l, err := net.Listen("tcp", p); err == nil {
				_ = l.Close()
				port = p
			}
		}
		taken[port] = true
		pairs = append(pairs, named, port)
	}
	return strings.NewReplacer(pairs...)
}
