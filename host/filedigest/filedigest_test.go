package filedigest

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func digest(t *testing.T, c Cache, path string) string {
	t.Helper()
	got, err := c.SHA256(open(t, path), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func of(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// anywhere has the file system of the tests' files count as one that keeps times.
func anywhere(t *testing.T) {
	t.Helper()
	was := timed
	timed = func(*os.File) bool { return true }
	t.Cleanup(func() { timed = was })
}

// oldEnough waits until what was written last may be kept.
func oldEnough() { time.Sleep(settled + 50*time.Millisecond) }

func TestChangedFilesAreReadAgain(t *testing.T) {
	anywhere(t)
	dir := t.TempDir()
	path, c := filepath.Join(dir, "kernel"), In(filepath.Join(dir, "cache"))
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	if got := digest(t, c, path); got != of("one") {
		t.Fatal("another digest than SHA-256's")
	}
	if len(c.read()) != 0 {
		t.Error("the digest of a file that has just changed was kept")
	}
	oldEnough()
	if digest(t, c, path); len(c.read()) != 1 {
		t.Fatalf("kept: %v", c.read())
	}

	// The same size, and the time of writing set back: the kernel's own time is not.
	was := open(t, path)
	var st unix.Stat_t
	if err := unix.Fstat(int(was.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	write("two")
	back := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, back, 0); err != nil {
		t.Fatal(err)
	}
	if got := digest(t, c, path); got != of("two") {
		t.Error("a changed file has its digest of before")
	}
	oldEnough()
	digest(t, c, path)
	if all := c.read(); len(all) != 1 || all[0].SHA256 != of("two") {
		t.Errorf("kept: %v", all)
	}
}

func TestKeptDigestIsUsed(t *testing.T) {
	anywhere(t)
	dir := t.TempDir()
	path, c := filepath.Join(dir, "kernel"), In(dir)
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	oldEnough()
	digest(t, c, path)
	all := c.read()
	all[0].SHA256 = of("planted")
	c.add(all[0])
	if got := digest(t, c, path); got != of("planted") {
		t.Error("the file was read again")
	}
	b, err := os.ReadFile(string(c))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(string(c), []byte(strings.Replace(string(b), boot(), "another", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := digest(t, c, path); got != of("one") {
		t.Error("a digest of another boot was used")
	}
}

// TestFilesInMemory: a mapping changes them without a time of change.
func TestFilesInMemory(t *testing.T) {
	fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "x")
	defer f.Close()
	if _, err := f.WriteString("one"); err != nil {
		t.Fatal(err)
	}
	oldEnough()
	c := In(t.TempDir())
	if got, err := c.SHA256(f, 1<<20); got != of("one") || err != nil || len(c.read()) > 0 {
		t.Errorf("%s, %v, kept %v", got, err, c.read())
	}
}

func TestBadCachesAndFiles(t *testing.T) {
	dir := t.TempDir()
	path, c := filepath.Join(dir, "kernel"), In(dir)
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{", `[{"sha256":"00"}]`, `{"boot":"` + boot() + `","files":[{"sha256":"00"}]}`} {
		if err := os.WriteFile(string(c), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := digest(t, c, path); got != of("one") {
			t.Errorf("with the cache %q: %s", bad, got)
		}
	}
	if got := digest(t, "", path); got != of("one") {
		t.Error("without a cache: another digest")
	}
	if _, err := c.SHA256(open(t, path), 2); err == nil {
		t.Error("a file beyond the limit has a digest")
	}
}
