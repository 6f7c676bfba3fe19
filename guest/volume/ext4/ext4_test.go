package ext4

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// e2fsck, which shares nothing with this package, finds nothing to say of any size.
func TestE2fsckIsContent(t *testing.T) {
	fsck, err := exec.LookPath("e2fsck")
	if err != nil {
		if fsck = "/usr/sbin/e2fsck"; exec.Command(fsck, "-V").Run() != nil {
			t.Fatal("e2fsck (Debian package e2fsprogs) is not here")
		}
	}
	const group = blocksPerGroup * BlockSize
	for _, size := range []int64{
		MinSize, MinSize + 4095, 100 << 20, group - BlockSize, group, group + BlockSize, group + 513*BlockSize,
		group + (514+leastGroup)*BlockSize, 2 * group, 3*group - 4096, 3*group + 520*BlockSize, 3*group + (516+leastGroup)*BlockSize, 10 << 30, 300<<30 + 12345,
	} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			p := filepath.Join(t.TempDir(), "fs")
			f, err := os.Create(p)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(size); err != nil {
				t.Fatal(err)
			}
			if err := Format(f, size, Options{UUID: [16]byte{1, 2, 3}, Seed: [16]byte{9}, Time: time.Unix(1700000000, 0)}); err != nil {
				t.Fatal(err)
			}
			l, err := layoutOf(size)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := Size(f); got != int64(l.blocks)*BlockSize || size-got >= 4<<20 || err != nil {
				t.Errorf("it says that it has %d bytes, %v", got, err)
			}
			if out, err := exec.Command(fsck, "-f", "-n", p).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// What is not written is not read: over garbage the file system is as good. The
// tables that the kernel makes itself are left out of e2fsck's sight by their flags.
func TestWithoutContentsBefore(t *testing.T) {
	p := filepath.Join(t.TempDir(), "fs")
	const size = 3 * blocksPerGroup * BlockSize
	f, err := os.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	garbage := make([]byte, 1<<20)
	for i := range garbage {
		garbage[i] = 0xa5
	}
	for off := int64(0); off < size; off += int64(len(garbage)) {
		if _, err := f.WriteAt(garbage, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := Format(f, size, Options{Time: time.Unix(1700000000, 0)}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/usr/sbin/e2fsck", "-f", "-n", p).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

type full struct{ left int }

func (w *full) WriteAt(b []byte, _ int64) (int, error) {
	if w.left--; w.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(b), nil
}

func TestFaults(t *testing.T) {
	for _, size := range []int64{-1, 0, MinSize - 1, MaxSize + 1} {
		if err := Format(new(full), size, Options{}); err == nil {
			t.Errorf("%d bytes were accepted", size)
		}
	}
	for n := range 8 {
		if err := Format(&full{n}, MinSize, Options{}); err == nil {
			t.Errorf("a device that takes %d writes was formatted", n)
		}
	}
}
