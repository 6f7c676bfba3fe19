package boot

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/libos"
)

// LibraryOS is a guest whose kernel is a library OS: no firmware, no modules, no
// devices; what a VM has as devices it was given as open descriptors (api/libos).
type LibraryOS struct {
	floor    string   // content of FloorFile; measured, as an argument is
	hardware *os.File // SetHardware
}

// SetHardware and Hardware keep the descriptor of the TEE for who starts the key
// holder.
func (l *LibraryOS) SetHardware(f *os.File) { l.hardware = f }

// Hardware gives it.
func (l *LibraryOS) Hardware() *os.File { return l.hardware }

// ParseLibraryOS reads the agent's arguments behind libos.AgentArg. One that it does
// not know changes nothing but the measurement, as on a kernel's command line.
func ParseLibraryOS(args []string) (*LibraryOS, error) {
	l := new(LibraryOS)
	for _, a := range args {
		v, ok := strings.CutPrefix(a, libos.FloorArg)
		if !ok {
			continue
		}
		if n, err := strconv.ParseInt(v, 10, 64); err != nil || n <= 0 || l.floor != "" {
			return nil, fmt.Errorf("starting in a library OS: argument %.100q", a)
		}
		l.floor = v + "\n"
	}
	if l.floor == "" {
		return nil, errors.New("starting in a library OS: the source revision's date is missing")
	}
	return l, nil
}

// Filesystems mounts what the library OS has not, and writes the files that a
// VM's image has. /proc, /sys, /dev and /dev/pts are there.
func (l *LibraryOS) Filesystems() error {
	for name, content := range map[string]string{
		FloorFile:            l.floor,
		"/etc/nsswitch.conf": "hosts: files dns\n",
		"/etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return fmt.Errorf("writing the guest's files: %w", err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			return fmt.Errorf("writing the guest's files: %w", err)
		}
	}
	if err := os.Symlink(ResolvConf, "/etc/resolv.conf"); err != nil {
		return fmt.Errorf("linking resolv.conf: %w", err)
	}
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		fstype, dir string
		flags       uintptr
		data        string
	}{
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"tmpfs", "/tmp", safe, "mode=1777,size=16m"},
		{"tmpfs", StateDir, unix.MS_NOSUID | unix.MS_NODEV, "mode=0711"},
		{"cgroup2", "/sys/fs/cgroup", safe, ""},
	} {
		if m.dir == StateDir {
			if err := os.MkdirAll(m.dir, 0o755); err != nil {
				return fmt.Errorf("mounting %s: %w", m.dir, err)
			}
		}
		if err := unix.Mount(m.fstype, m.dir, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s: %w", m.dir, err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("making the root read-only: %w", err)
	}
	return nil
}

// Cgroups makes the groups for containers and helpers. A library OS has the
// controllers and counts by them; it holds processes to the number alone
// (container.Options.LibraryOS refuses the other limits).
func (l *LibraryOS) Cgroups() error {
	const controllers = "+cpu +memory +pids"
	for _, dir := range []string{"/sys/fs/cgroup", CgroupPods, CgroupHelpers} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making control groups: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(controllers), 0); err != nil {
			return fmt.Errorf("making control groups: %w", err)
		}
	}
	return nil
}

// PowerOff ends the library OS: it goes with its first process.
func (l *LibraryOS) PowerOff() { os.Exit(0) }

// descriptors are the files of the agent's first descriptors; each is taken once.
var descriptors = struct {
	sync.Mutex
	taken map[int]bool
}{taken: map[int]bool{}}

// Descriptor takes over one of the descriptors of api/libos.
func (l *LibraryOS) Descriptor(fd int, name string) (*os.File, error) {
	descriptors.Lock()
	defer descriptors.Unlock()
	store := fd >= libos.FDStores && fd < libos.FDStores+libos.MaxStores
	if (fd < libos.FDChannel || fd > libos.FDInitdata) && !store || descriptors.taken[fd] {
		return nil, fmt.Errorf("taking over the %s: descriptor %d is not to be had", name, fd)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("taking over the %s: %w", name, err)
	}
	if store {
		descriptors.taken[fd] = true
		return os.NewFile(uintptr(fd), name), nil
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("taking over the %s: %w", name, err)
	}
	descriptors.taken[fd] = true
	return os.NewFile(uintptr(fd), name), nil
}

// Stores gives the files that keep volumes, those that are there.
func (l *LibraryOS) Stores() ([]*os.File, error) {
	var out []*os.File
	for i := range libos.MaxStores {
		f, err := l.Descriptor(libos.FDStores+i, "store")
		if err != nil {
			return nil, err
		}
		fi, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("taking over the store: %w", err)
		}
		if !fi.Mode().IsRegular() || fi.Size() == 0 {
			_ = f.Close()
			continue
		}
		out = append(out, f)
	}
	return out, nil
}

// ReadInitdata is the package's ReadInitdata for the one descriptor that can hold a
// document. An empty one says that there is none.
func (l *LibraryOS) ReadInitdata(reg Register) (*Initdata, error) {
	f, err := l.Descriptor(libos.FDInitdata, "initdata")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDevice+1))
	if err != nil {
		return nil, fmt.Errorf("reading initdata: %w", err)
	}
	if len(b) == 0 {
		return bind(nil, reg)
	}
	plain, err := initdata.DecodeDevice(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		return nil, fmt.Errorf("reading initdata: %w", err)
	}
	if plain == nil {
		plain = []byte{} // an empty document is not the same as none
	}
	return bind(plain, reg)
}
