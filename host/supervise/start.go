package supervise

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Command is a process to start for a sandbox.
type Command struct {
	Path  string     // the program; opened here, so the process needs no way to it
	Args  []string   // without argv[0]
	Files []*os.File // become descriptors 3, 4, ...; see FD
	UID   int        // uid and gid to run under; 0: the caller's own
	// BindLowPorts leaves the one capability that ports below 1024 take.
	BindLowPorts bool
	// LockMiB is how much memory it may lock, for devices that reach it; 0: what this
	// process may.
	LockMiB    int
	Output     *os.File // standard output and error
	Stdout     *os.File // standard output, where it is another than Output
	Namespaces uintptr  // CLONE_NEW* flags: namespaces to start in
	Env        []string // beyond the customary
}

const capNetBindService = 10

// FD is the descriptor that Files[i] becomes.
func FD(i int) int { return 3 + i }

// Start starts c so that the kernel kills it when this process dies. The
// caller waits for it. No core is dumped; there is no supplementary group, and no
// descriptor but those of c.
func Start(c *Command) (*exec.Cmd, error) {
	bin, err := os.Open(c.Path)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.Path, err)
	}
	defer bin.Close()
	cmd := &exec.Cmd{
		Path:       fmt.Sprintf("/proc/self/fd/%d", FD(len(c.Files))),
		Args:       append([]string{c.Path}, c.Args...),
		Env:        []string{"PATH=/usr/bin:/bin", "LC_ALL=C"},
		Dir:        "/",
		ExtraFiles: append(append([]*os.File{}, c.Files...), bin),
		SysProcAttr: &syscall.SysProcAttr{
			Pdeathsig: syscall.SIGKILL,
			Setsid:    true, // a terminal's signals are not for it
		},
	}
	if c.Output != nil {
		cmd.Stdout, cmd.Stderr = c.Output, c.Output
	}
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	cmd.Env = append(cmd.Env, c.Env...)
	cmd.SysProcAttr.Cloneflags = c.Namespaces
	if c.UID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.UID), Gid: uint32(c.UID)}
		if c.BindLowPorts {
			cmd.SysProcAttr.AmbientCaps = []uintptr{capNetBindService}
		}
	}
	noCoreDumps()
	if err := noInheritance(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.Path, err)
	}
	if err := onForker(func() error { return startLocking(cmd, c.LockMiB) }); err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.Path, err)
	}
	return cmd, nil
}

// startLocking starts cmd with another limit of locked memory than this process has.
// Limits are inherited and Go sets none in between, so this process has it meanwhile;
// whoever raises it stands in one queue (onForker).
func startLocking(cmd *exec.Cmd, mib int) (err error) {
	if mib == 0 {
		return cmd.Start()
	}
	var old unix.Rlimit
	want := uint64(mib) << 20
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old); err != nil {
		return fmt.Errorf("limit of locked memory: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: want, Max: max(want, old.Max)}); err != nil {
		return fmt.Errorf("limit of locked memory of %d MiB: %w", mib, err)
	}
	defer func() { err = errors.Join(err, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old)) }()
	return cmd.Start()
}

// noCoreDumps applies to this process and, by inheritance, to all it starts.
var noCoreDumps = sync.OnceFunc(func() {
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
})

// noInheritance keeps from every process that is started what this one has
// inherited from a launcher that left descriptors open; Go's own files are never
// passed on unasked.
var noInheritance = sync.OnceValue(func() error {
	const first = 3
	if err := unix.CloseRange(first, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keeping descriptors: %w", err)
	}
	return nil
})

// onForker runs f on a thread that lives as long as this process: the parent
// death signal is tied to the thread that forked, not to the process.
func onForker(f func() error) error {
	forkerOnce.Do(func() {
		go func() {
			runtime.LockOSThread()
			for f := range forks {
				f()
			}
		}()
	})
	errc := make(chan error, 1)
	forks <- func() { errc <- f() }
	return <-errc
}

var (
	forkerOnce sync.Once
	forks      = make(chan func())
)

// Private uids lie in a range that neither distributions nor container engines
// hand out.
const (
	uidBase = 0x6c000000
	uidMask = 0x00fffffe
)

// nobody is the fallback where the user namespace maps no private range.
const nobody = 65534

// PrivateUIDs gives two uids that nothing else on this machine runs under, or
// zeros if this process may not change its uid (then everything runs as it does).
func PrivateUIDs() (a, b int, err error) {
	if os.Geteuid() != 0 {
		return 0, 0, nil
	}
	var r [4]byte
	_, _ = rand.Read(r[:])
	a = uidBase + int(binary.LittleEndian.Uint32(r[:])&uidMask)
	if uidMapped(a + 1) {
		return a, a + 1, nil
	}
	if uidMapped(nobody) {
		return nobody, nobody, nil
	}
	return 0, 0, errors.New("this user namespace maps no uid for an unprivileged QEMU")
}

func uidMapped(uid int) bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	for sc := bufio.NewScanner(strings.NewReader(string(b))); sc.Scan(); {
		var in, out, n int
		if _, err := fmt.Sscan(sc.Text(), &in, &out, &n); err == nil && uid >= in && uid < in+n {
			return true
		}
	}
	return false
}
