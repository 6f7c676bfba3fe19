// Package vectors finds the published test vectors, which are shared beside the
// repository (../shared/vectors) and never copied into it.
//
// Trust zone: tests only.
package vectors

import (
	"os"
	"path/filepath"
	"testing"
)

// Dir gives the folder of one set of vectors, such as "ocicrypt". Where the
// vectors are not there the test is skipped; in CI (CI=true) it fails, so that
// a missing mount cannot pass for a green run.
func Dir(t testing.TB, sub string) string {
	t.Helper()
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		p := filepath.Join(dir, "shared", "vectors", sub)
		if st, err := os.Stat(p); err == nil && st.IsDir() {
			return p
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("shared vectors %q not found above %s", sub, wd)
	}
	t.Skipf("shared vectors %q not found above %s", sub, wd)
	return ""
}
