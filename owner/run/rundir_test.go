package run

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRunDirNames(t *testing.T) {
	root := t.TempDir()
	for pod, want := range map[string]string{
		"web": "web-", "my.pod.v1": "my-pod-v1-", strings.Repeat("a", 63): strings.Repeat("a", 40) + "-",
		strings.Repeat("a", 39) + "-b": strings.Repeat("a", 39) + "-",
	} {
		id, dir, err := newRunDir(root, pod)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(id, want) || len(id) != len(want)+8 || dir != filepath.Join(root, id) {
			t.Errorf("pod %s: %s in %s, want %s and 8 digits", pod, id, dir, want)
		}
		if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, fi.Mode(), err)
		}
	}
}

func TestSocketsFitIntoTheLongestRoot(t *testing.T) {
	root := filepath.Join(t.TempDir(), "r")
	root += strings.Repeat("x", maxRoot-len(root))
	_, dir, err := newRunDir(root, strings.Repeat("a", 63))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(filepath.Join(dir, controlSocket)); n > maxSocket {
		t.Errorf("a socket's path has %d bytes", n)
	}
}

func TestRootTooLong(t *testing.T) {
	t.Setenv("COFFER_RUN_DIR", "/"+strings.Repeat("x", maxRoot))
	_, err := Root()
	var in *InputError
	if !errors.As(err, &in) || !strings.Contains(err.Error(), "COFFER_RUN_DIR") {
		t.Errorf("got %v", err)
	}
	t.Setenv("COFFER_RUN_DIR", "relative")
	if d, err := Root(); err != nil || !filepath.IsAbs(d) {
		t.Errorf("%s, %v", d, err)
	}
}
