package trustee_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
			sh := exec.CommandContext(t.Context(), "sh", "-eu")
			sh.Stdin = strings.NewReader("trap 'kill $! 2>/dev/null || true' EXIT\nset -x\n" + script.String())
			sh.Env, sh.Dir, sh.WaitDelay = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+dir), dir, 10*time.Second
			if out, err := sh.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		})
	}
}
