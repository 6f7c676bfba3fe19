package audit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// small mounts a file system of 64 KiB and gives what fills it and what makes room.
func small(t *testing.T) (dir string, fill, free func()) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("coffer-test", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("no file system of its own, which needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	filler := filepath.Join(dir, "filler")
	return dir, func() {
			f, err := os.Create(filler)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for err == nil {
				_, err = f.Write(make([]byte, 4096))
			}
		}, func() {
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
		}
}

func checkpointer(t *testing.T, l *Log) *Checkpointer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCheckpointer(l, k, "i")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wholeLines gives the number of checkpoints in the file, each of which must be one.
func wholeLines(t *testing.T, dir string) int {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, CheckpointFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for d := json.NewDecoder(f); d.More(); n++ {
		var s string
		if err := d.Decode(&s); err != nil {
			t.Fatalf("checkpoint %d: %v", n+1, err)
		}
	}
	return n
}

func TestCheckpointOnFullDisk(t *testing.T) {
	dir, fill, free := small(t)
	l := open(t, Config{Dir: dir})
	c, name, n := checkpointer(t, l), filepath.Join(dir, CheckpointFile), 0
	write := func() error {
		if err := l.Append(t.Context(), &Entry{Kind: KindAdmin}); err != nil {
			t.Fatal(err)
		}
		return c.Write(t.Context())
	}
	var fi os.FileInfo
	for fi == nil || 4096-fi.Size()%4096 > 300 { // the next one crosses a page
		if err := write(); err != nil {
			t.Fatal(err)
		}
		n++
		var err error
		if fi, err = os.Stat(name); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	if err := write(); err == nil {
		t.Fatal("a checkpoint was written on a full disk")
	}
	if now, err := os.Stat(name); err != nil || now.Size() != fi.Size() {
		t.Errorf("after the failure the file has %d bytes, before %d (%v)", now.Size(), fi.Size(), err)
	}
	free()
	if err := c.Write(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := wholeLines(t, dir); got != n+1 {
		t.Errorf("%d checkpoints, want %d", got, n+1)
	}
}

// What a crash left of a checkpoint is gone before another one follows.
func TestTornCheckpointIsCutOff(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir})
	if err := l.Append(t.Context(), &Entry{Kind: KindAdmin}); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, CheckpointFile)
	for _, torn := range []string{"\"whole\"\n\"torn", "\"torn", "\"whole\"\n"} {
		if err := os.WriteFile(name, []byte(torn), 0o600); err != nil {
			t.Fatal(err)
		}
		before := strings.Count(torn, "\n")
		if err := checkpointer(t, l).Write(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := wholeLines(t, dir); got != before+1 {
			t.Errorf("%q: %d checkpoints, want %d", torn, got, before+1)
		}
	}
}

// Nothing is appended on a full disk, and all of it goes on when there is room.
func TestFullDisk(t *testing.T) {
	dir, fill, free := small(t)
	l := open(t, Config{Dir: dir})
	release := func() error { return l.Append(t.Context(), &Entry{Kind: KindRelease, Resource: "a/b/c"}) }
	if err := release(); err != nil {
		t.Fatal(err)
	}
	fill()
	acknowledged, failed := uint64(1), 0
	for range 100 { // the page that is begun has room for a few
		if release() == nil {
			acknowledged++
		} else {
			failed++
		}
	}
	if failed == 0 {
		t.Fatal("the disk is not full")
	}
	free()
	if err := release(); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	if n, err := Verify(dir); err != nil || n != acknowledged+1 {
		t.Errorf("%d records, %v, want %d", n, err, acknowledged+1)
	}
}

// Refusals that a broken disk did not take are counted when it takes some again, or
// at the end.
func TestRefusalsOfAFaultAreCounted(t *testing.T) {
	for _, at := range []string{"write", "sync"} {
		dir, on := t.TempDir(), false
		l := open(t, Config{Dir: dir, Now: time.Now, open: func(p string, flag int) (file, error) {
			f, err := os.OpenFile(p, flag, 0o600)
			return faulty{f, &on, at}, err
		}})
		deny := func(want bool) {
			t.Helper()
			if ok, err := l.AppendDenial(t.Context(), &Entry{Reason: "unbound"}); ok != want || (err == nil) != want {
				t.Errorf("%v, %v", ok, err)
			}
		}
		fault := func(n int) {
			on = true
			for range n {
				deny(false)
			}
			on = false
		}
		deny(true)
		fault(10)
		deny(true)
		fault(3)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		var counts []uint64
		lines, err := l.Read(0, 100, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range lines {
			var e Entry
			if err := json.Unmarshal(b, &e); err != nil {
				t.Fatal(err)
			}
			if e.Kind == KindSuppressed {
				counts = append(counts, e.Count)
			}
		}
		if len(lines) != 4 || len(counts) != 2 || counts[0] != 10 || counts[1] != 3 {
			t.Errorf("%s: %d records, %v refusals counted, want 10 and 3", at, len(lines), counts)
		}
	}
}
