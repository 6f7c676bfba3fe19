// Package filedigest keeps the SHA-256 of files that every launch would otherwise read
// from end to end: the guest's kernel and initrd, a library OS's program.
//
// A digest is kept for the file's device, inode, size, and times of its last change, of
// which the kernel sets the last (ctime) and nobody can set it back; until the next boot,
// and on local file systems that keep such times. A file that changed in the last second
// is read again. Who is root here can lie, as about everything that the host says: the
// TEE measures what runs, and this is none of it.
//
// Trust zone: host.
package filedigest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// keptFiles bounds the file of kept digests.
	keptFiles = 64
	maxCache  = 64 << 10
	// settled is how old a file's last change must be: a second change within one tick
	// of the kernel's clock has the same time.
	settled = time.Second
)

// Cache is kept in one file, of which each process has its own view; "" keeps nothing.
type Cache string

// In is the cache in a folder.
func In(dir string) Cache {
	if dir == "" {
		return ""
	}
	return Cache(filepath.Join(dir, "file-digests.json"))
}

// version tells one version of a file from another without reading it.
type version struct {
	Dev   uint64 `json:"dev"`
	Inode uint64 `json:"inode"`
	Size  int64  `json:"size"`  // bytes
	MTime int64  `json:"mtime"` // nanoseconds since 1970
	CTime int64  `json:"ctime"` // likewise
}

type entry struct {
	version
	SHA256 string `json:"sha256"` // hex
}

// SHA256 gives the hex digest of a whole file of at most limit bytes and leaves f at its
// start.
func (c Cache) SHA256(f *os.File, limit int64) (string, error) {
	before, err := versionOf(f)
	if err != nil {
		return "", err
	}
	if before.Size > limit {
		return "", fmt.Errorf("%s has more than %d bytes", f.Name(), limit)
	}
	if !timed(f) {
		c = ""
	}
	for _, e := range c.read() {
		if e.version == before {
			_, err := f.Seek(0, io.SeekStart)
			return e.SHA256, err
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("%s has more than %d bytes", f.Name(), limit)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return "", err
	}
	sum := hex.EncodeToString(h.Sum(nil))
	if after, err := versionOf(f); err == nil && after == before && time.Since(time.Unix(0, before.CTime)) > settled {
		c.add(entry{before, sum})
	}
	return sum, nil
}

func versionOf(f *os.File) (version, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return version{}, fmt.Errorf("looking at %s: %w", f.Name(), err)
	}
	return version{Dev: st.Dev, Inode: st.Ino, Size: st.Size, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano()}, nil
}

// timed tells whether f is on a file system that is written here and whose times of
// change are the kernel's: not an image with times of its maker, nor another machine's.
var timed = func(f *os.File) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &st) != nil || st.Flags&unix.ST_RDONLY != 0 {
		return false
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC:
		return true
	}
	return false
}

// boot is this boot's name.
var boot = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
})

// kept is the cache's file.
type kept struct {
	Boot  string  `json:"boot"`
	Files []entry `json:"files"` // the newest last
}

// read gives what is kept; what cannot be read is nothing.
func (c Cache) read() []entry {
	if c == "" {
		return nil
	}
	f, err := os.Open(string(c))
	if err != nil {
		return nil
	}
	defer f.Close()
	var all kept
	if json.NewDecoder(io.LimitReader(f, maxCache)).Decode(&all) != nil || all.Boot != boot() {
		return nil
	}
	return slices.DeleteFunc(all.Files, func(e entry) bool {
		b, err := hex.DecodeString(e.SHA256)
		return err != nil || len(b) != sha256.Size
	})
}

// add keeps e as the newest. Two processes at once may lose one of theirs, which is
// then read again.
func (c Cache) add(e entry) {
	if c == "" {
		return
	}
	all := slices.DeleteFunc(c.read(), func(o entry) bool { return o.Dev == e.Dev && o.Inode == e.Inode })
	all = append(all[max(0, len(all)-keptFiles+1):], e)
	b, err := json.Marshal(kept{boot(), all})
	dir, name := filepath.Split(string(c))
	if err != nil || os.MkdirAll(dir, 0o700) != nil {
		return
	}
	tmp, err := os.CreateTemp(dir, name+".*")
	if err != nil {
		return
	}
	_, err = tmp.Write(b)
	if errors.Join(err, tmp.Close()) != nil || os.Rename(tmp.Name(), string(c)) != nil {
		_ = os.Remove(tmp.Name())
	}
}
