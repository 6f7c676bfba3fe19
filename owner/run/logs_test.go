package run

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func sink(t *testing.T, dir string, out *bytes.Buffer, prefix bool) *logSink {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, logDir), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := newLogSink(&sync.Mutex{}, out, dir, "app", prefix, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestLogSink: lines that arrive in pieces stay lines, streams do not mix, and
// the file reads back as it was written.
func TestLogSink(t *testing.T) {
	dir, out := t.TempDir(), &bytes.Buffer{}
	s := sink(t, dir, out, true)
	s.write("stdout", []byte("one\ntw"))
	s.write("stderr", []byte("oops\n"))
	s.write("stdout", []byte("o\nlast"))
	s.close()
	if got, want := out.String(), "app | one\napp | oops\napp | two\napp | last\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	var stdout, stderr bytes.Buffer
	if err := Logs(context.Background(), dir, "app", false, false, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "one\ntwo\nlast\n" || stderr.String() != "oops\n" {
		t.Errorf("read back %q and %q", stdout.String(), stderr.String())
	}
}

// TestLogSinkBounds: a line without end is cut, a file without end is rotated.
func TestLogSinkBounds(t *testing.T) {
	dir := t.TempDir()
	s := sink(t, dir, &bytes.Buffer{}, false)
	chunk := []byte(strings.Repeat("x", 32<<10))
	for range (maxLogFile + 1<<20) / len(chunk) {
		s.write("stdout", chunk)
	}
	s.close()
	for _, name := range []string{"app.log", "app.log.1"} {
		fi, err := os.Stat(filepath.Join(dir, logDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Size() > maxLogFile+(1<<20) {
			t.Errorf("%s has %d bytes", name, fi.Size())
		}
	}
}
