package vmm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/launch"
)

func TestOpenDisk(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int64) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(p, size); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good := file("good", 1<<20)
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file("empty", 0): "0 bytes are no disk", file("odd", 513): "513 bytes are no disk",
		dir: "is a directory", fifo: "neither a regular file nor a block device", "/dev/null": "neither a regular file nor a block device",
		filepath.Join(dir, "none"): "no such file",
	} {
		if f, _, err := OpenDisk(&launch.Disk{Path: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
			f.Close()
		}
	}
	f, block, err := OpenDisk(&launch.Disk{Path: good})
	if err != nil || block {
		t.Fatal(block, err)
	}
	if _, _, err := OpenDisk(&launch.Disk{Path: good}); err == nil || !strings.Contains(err.Error(), "in use by another guest") {
		t.Errorf("a second guest: %v", err)
	}
	f.Close()
	if f, _, err = OpenDisk(&launch.Disk{Path: good}); err != nil {
		t.Errorf("after the first guest: %v", err)
	}
	f.Close()
}

// A disk without a name takes no room before something is written, and is nobody's
// to find.
func TestScratchDisk(t *testing.T) {
	f, block, err := OpenDisk(&launch.Disk{Bytes: 1 << 40})
	if err != nil || block {
		t.Fatal(block, err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Size != 1<<40 || st.Blocks != 0 || st.Nlink != 0 || st.Mode&0o777 != 0o600 {
		t.Errorf("%+v, %v", st, err)
	}
}
