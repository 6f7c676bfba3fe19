package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/guest/proc/caps"
	"github.com/cofferproject/coffer/guest/proc/seccomp"
	"golang.org/x/sys/unix"
)

// defaultOpenFiles is the customary soft limit for open files.
const defaultOpenFiles = 1024

// defaultTimerSlack is the kernel's own, in nanoseconds.
const defaultTimerSlack = 50_000

// errNotFound says that a command does not exist.
var errNotFound = errors.New("executable file not found")

// become gives up every privilege the process does not have and executes it. It
// works on the calling thread, which must be locked. It returns only an error.
func (p *Process) become(id *identity) error {
	keep, err := caps.Parse(p.Capabilities)
	if err != nil {
		return err
	}
	if len(p.Args) == 0 {
		return errors.New("no command")
	}
	env := p.environment(id)
	if err := p.enterDirectory(); err != nil {
		return err
	}
	if p.OOMScoreAdj != 0 {
		if err := os.WriteFile("/proc/thread-self/oom_score_adj", []byte(strconv.Itoa(p.OOMScoreAdj)), 0); err != nil {
			return fmt.Errorf("setting OOM score: %w", err)
		}
	}
	if err := p.setRlimits(); err != nil {
		return err
	}
	if !p.Terminal {
		chownPipes(id)
	}
	unix.Umask(0o022)
	// The guest's own processes let their timers run late; workloads get the
	// kernel's default. A library OS has no such thing (EINVAL).
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, defaultTimerSlack, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("setting the timer slack: %w", err)
	}

	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keeping capabilities: %w", err)
	}
	if err := caps.DropBounding(keep); err != nil {
		return err
	}
	if err := setIDs(id); err != nil {
		return err
	}
	// A filter without no_new_privs takes CAP_SYS_ADMIN; it goes right after.
	admin, err := caps.Parse([]string{"CAP_SYS_ADMIN"})
	if err != nil {
		return err
	}
	if err := caps.Apply(keep|admin, 0); err != nil {
		return err
	}
	if p.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("setting no_new_privs: %w", err)
		}
	}
	file, err := findExecutable(p.Args[0], env)
	if err != nil {
		return err
	}
	x, err := prepareExec(file, p.Args, env)
	if err != nil {
		return err
	}
	if p.Seccomp != nil {
		if err := seccomp.InstallThread(p.Seccomp); err != nil {
			return err
		}
	}
	if err := caps.Apply(keep, 0); err != nil {
		return err
	}
	errno := x.run()
	if errno == unix.ENOENT {
		return fmt.Errorf("executing %s: %w", p.Args[0], errNotFound)
	}
	return fmt.Errorf("executing %s: %w", p.Args[0], errno)
}

func (p *Process) environment(id *identity) []string {
	for _, e := range p.Env {
		if strings.HasPrefix(e, "HOME=") {
			return p.Env
		}
	}
	return append(append([]string(nil), p.Env...), "HOME="+id.Home)
}

// setRlimits sets the limits. The Go runtime has raised its own soft limit for
// open files; a workload gets the customary one unless told otherwise.
func (p *Process) setRlimits() error {
	var files unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &files); err != nil {
		return fmt.Errorf("reading resource limit: %w", err)
	}
	files.Cur = min(files.Max, defaultOpenFiles)
	limits := append([]Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: files.Cur, Hard: files.Max}}, p.Rlimits...)
	for _, r := range limits {
		if err := unix.Prlimit(0, r.Resource, &unix.Rlimit{Cur: r.Soft, Max: r.Hard}, nil); err != nil {
			return fmt.Errorf("setting resource limit %d: %w", r.Resource, err)
		}
	}
	return nil
}

func (p *Process) enterDirectory() error {
	cwd := p.Cwd
	if cwd == "" {
		cwd = "/"
	}
	if !path.IsAbs(cwd) {
		return fmt.Errorf("working directory %q is not absolute", cwd)
	}
	err := os.Chdir(cwd)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(cwd, 0o755); err != nil {
			return fmt.Errorf("making working directory: %w", err)
		}
		err = os.Chdir(cwd)
	}
	if err != nil {
		return fmt.Errorf("entering working directory: %w", err)
	}
	return nil
}

// chownPipes lets the user open its own /dev/stdout again by name.
func chownPipes(id *identity) {
	for fd := range 3 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
			_ = unix.Fchown(fd, int(id.UID), int(id.GID))
		}
	}
}

// setIDs changes the calling thread's ids by raw calls: the package syscall's
// would change every thread of the process, of which execve leaves only this one.
func setIDs(id *identity) error {
	if err := setgroupsThread(id.Groups); err != nil {
		return fmt.Errorf("setting groups: %w", err)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(id.GID), uintptr(id.GID), uintptr(id.GID)); e != 0 {
		return fmt.Errorf("setting gid %d: %w", id.GID, e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(id.UID), uintptr(id.UID), uintptr(id.UID)); e != 0 {
		return fmt.Errorf("setting uid %d: %w", id.UID, e)
	}
	return nil
}

// findExecutable looks a command up in the PATH of the container's environment.
func findExecutable(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	for dir := range strings.SplitSeq(search, ":") {
		if dir == "" {
			dir = "."
		}
		file := path.Join(dir, name)
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() && unix.Access(file, unix.X_OK) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("executing %s: %w in PATH", name, errNotFound)
}
