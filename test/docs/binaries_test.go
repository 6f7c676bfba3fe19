package docs

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestNoBuiltProgramIsCommitted: what is in the tree is source. A program that
// go build left behind would be in every clone, built by nobody knows whom.
func TestNoBuiltProgramIsCommitted(t *testing.T) {
	cmd := exec.Command("git", "ls-files", "-z")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for f := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		file, err := os.Open(filepath.Join(root, f))
		if err != nil {
			continue // deleted here, and not yet in git
		}
		n++
		head := make([]byte, 4)
		_, err = io.ReadFull(file, head)
		_ = file.Close()
		if err == nil && bytes.Equal(head, []byte("\x7fELF")) {
			t.Errorf("%s is a built program", f)
		}
	}
	if n < 100 {
		t.Errorf("found only %d files: the search is broken", n)
	}
}
