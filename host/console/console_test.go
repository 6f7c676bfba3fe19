package console

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConsoleIsBounded(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	c := Capture(r, f)
	io.WriteString(w, "the first line\n")
	line := strings.Repeat("y", 8191) + "\n"
	for range 1000 { // 8 MiB
		io.WriteString(w, line)
	}
	io.WriteString(w, "\x1b[31mthe\x1b[=3h \x00last\u202e line\n")
	w.Close()
	<-c.Done()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > MaxFile {
		t.Errorf("%d bytes", len(b))
	}
	for _, want := range []string{"the first line\n", cut, "last"} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("no %q in the file", want)
		}
	}
	if got := c.Tail(); got != "the last line\n" {
		t.Errorf("tail %q", got)
	}
}
