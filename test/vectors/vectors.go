// Package vectors finds the published test vectors, which are shared beside the
// repository (../shared/vectors) and never copied into it.
//
// Trust zone: tests only.
package vectors

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Dir gives the folder of one set of vectors, such as "ocicrypt". Where the
// vectors are not there the test is skipped; in CI (CI=true) it fails, so that
// a missing mount cannot pass for a green run.
func Dir(t testing.TB, sub string) string {
	t.Helper()
	dir, err := find(sub)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return dir
}

// find looks for a set in shared/vectors, from the working directory upwards.
func find(sub string) (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("looking for vectors: %w", err)
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		p := filepath.Join(dir, "shared", "vectors", sub)
		if st, err := os.Stat(p); err == nil && st.IsDir() {
			return p, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("shared vectors %q not found above %s", sub, wd)
		}
	}
}
