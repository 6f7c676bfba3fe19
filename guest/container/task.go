package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/guest/proc"
	"golang.org/x/sys/unix"
)

// Task is a running or ended process of a container, as the agent holds it.
type Task struct {
	child *proc.Child
	io    *stdio
	done  chan struct{} // closed after everyone inside the guest knows of the end
	code  int
}

// finish waits for the end and tells the guest's parts before any host call
// can see it.
func (p *Task) finish(c *Container, execID string) {
	<-p.child.Done()
	p.code = p.child.ExitCode()
	if execID == "" {
		// A pid namespace of its own has gone with its init, but for processes that joined
		// it from outside and are still on their way; in the pod's all others live on.
		_ = c.cgroup.kill()
		c.r.oom.check(c)
	}
	c.r.opt.Exited(c.ID, execID, p.code)
	close(p.done)
}

func (p *Task) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *Task) outputDone() bool {
	for _, s := range []*stream{p.io.stdout, p.io.stderr} {
		if s == nil {
			continue
		}
		if !s.mu.TryLock() {
			return false
		}
		eof := s.eof
		s.mu.Unlock()
		if !eof {
			return false
		}
	}
	return true
}

// Wait blocks until the process has ended and gives its exit code, or 128 + signal.
func (p *Task) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
		return p.code, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Signal sends sig to the process alone. A container's init that would not
// notice SIGTERM, since the kernel shields a namespace's first process from
// signals without a handler, gets SIGKILL instead. One that ignores SIGTERM has
// chosen to: it keeps its grace period.
func (c *Container) Signal(p *Task, sig syscall.Signal) error {
	if p == c.init {
		if sig == unix.SIGKILL || (sig == unix.SIGTERM && !handles(p.child.PID, sig)) {
			if p.ended() {
				return nil
			}
			return c.cgroup.kill()
		}
	}
	return p.child.Signal(sig)
}

// handles reports whether the process catches, waits for or ignores sig: whether
// it has said what becomes of it.
func handles(pid int, sig syscall.Signal) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && handled(b, sig)
}

// handled reads /proc/PID/status. A library OS has no masks there, and no protection of
// a namespace's first process either: it ends by what it does not handle.
func handled(status []byte, sig syscall.Signal) bool {
	masks := false
	for line := range bytes.Lines(status) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		if name != "SigCgt" && name != "SigBlk" && name != "SigIgn" {
			continue
		}
		masks = true
		mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err == nil && mask&(1<<(uint(sig)-1)) != 0 {
			return true
		}
	}
	return !masks
}

// ReadStdout and ReadStderr give up to max bytes, waiting for the first; none
// mean end of output.
func (p *Task) ReadStdout(ctx context.Context, max int) ([]byte, error) {
	if p.io.stdout == nil {
		return nil, nil
	}
	return p.io.stdout.read(ctx, max)
}

// ReadStderr is empty for a process with a terminal.
func (p *Task) ReadStderr(ctx context.Context, max int) ([]byte, error) {
	if p.io.stderr == nil {
		return nil, nil
	}
	return p.io.stderr.read(ctx, max)
}

// Drain throws all output away from now on.
func (p *Task) Drain() {
	for _, s := range []*stream{p.io.stdout, p.io.stderr} {
		if s != nil {
			go s.drain()
		}
	}
}

// WriteStdin writes all of b; it blocks while the process does not read.
func (p *Task) WriteStdin(ctx context.Context, b []byte) error {
	p.io.mu.Lock()
	in := p.io.stdin
	p.io.mu.Unlock()
	if in == nil {
		return errors.New("writing to stdin: it is closed")
	}
	stop := context.AfterFunc(ctx, func() { _ = in.SetWriteDeadline(time.Unix(1, 0)) })
	_, err := in.Write(b)
	if !stop() {
		_ = in.SetWriteDeadline(time.Time{})
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("writing to stdin: %w", err)
	}
	return nil
}

// CloseStdin lets the process read end of file.
func (p *Task) CloseStdin() { p.io.closeStdin() }

// Resize sets the terminal's size.
func (p *Task) Resize(rows, columns uint16) error {
	p.io.mu.Lock()
	defer p.io.mu.Unlock()
	if p.io.master == nil {
		return errors.New("resizing terminal: the process has none")
	}
	rc, err := p.io.master.SyscallConn()
	if err != nil {
		return fmt.Errorf("resizing terminal: %w", err)
	}
	var ierr error
	if err := rc.Control(func(fd uintptr) { ierr = resize(int(fd), rows, columns) }); err != nil {
		return fmt.Errorf("resizing terminal: %w", err)
	}
	if ierr != nil {
		return fmt.Errorf("resizing terminal: %w", ierr)
	}
	return nil
}

// inPIDNamespace runs start on a thread whose children are born in the namespace.
func inPIDNamespace(ns *os.File, start func() (*proc.Child, error)) func() (*proc.Child, error) {
	return func() (child *proc.Child, err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			// Never unlocked: the thread ends with the goroutine.
			runtime.LockOSThread()
			if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWPID); err != nil {
				err = fmt.Errorf("entering the container: %w", err)
				return
			}
			child, err = start()
		}()
		<-done
		return child, err
	}
}
