// Package proc starts and keeps the guest's processes: it reaps every child of
// PID 1, and starts the parts of coffer-guest (key holder, REST server, image
// parser and writer) as processes of their own with privileges dropped
// (design.md section 2).
//
// Invariants: nothing else in PID 1 waits for a child; a process id is signalled
// only while its zombie cannot have been reaped; a helper never has more than
// its role's capabilities, from before its first instruction on.
//
// Trust zone: guest.
package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Reaper waits for all children of this process: those it started itself, and
// the orphans that PID 1 inherits.
type Reaper struct {
	mu       sync.Mutex // held while a pid may come to life or be freed
	children map[int]*Child
}

// Child is a process that the Reaper started.
type Child struct {
	PID    int
	reaper *Reaper
	done   chan struct{}
	status syscall.WaitStatus
}

// NewReaper makes a Reaper; call Run once.
func NewReaper() *Reaper { return &Reaper{children: map[int]*Child{}} }

// Run reaps until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	// Signals coalesce, so one slot is enough: each wake-up reaps all zombies.
	wake := make(chan os.Signal, 1)
	signal.Notify(wake, unix.SIGCHLD)
	defer signal.Stop(wake)
	for {
		r.reap()
		select {
		case <-wake:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var st syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &st, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if c := r.children[pid]; c != nil {
			delete(r.children, pid)
			c.status = st
			close(c.done)
		}
	}
}

// Start forks and executes path. It holds the lock from fork to registration, so
// that a child that ends at once is not taken for an orphan.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr) (*Child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", argv[0], err)
	}
	c := &Child{PID: pid, reaper: r, done: make(chan struct{})}
	r.children[pid] = c
	return c, nil
}

// Done is closed when the child has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Wait blocks until the child has ended, or ctx; any number of callers may wait.
func (c *Child) Wait(ctx context.Context) (syscall.WaitStatus, error) {
	select {
	case <-c.done:
		return c.status, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// ExitCode is the exit code, or 128 + signal. Only after Done.
func (c *Child) ExitCode() int {
	if c.status.Signaled() {
		return 128 + int(c.status.Signal())
	}
	return c.status.ExitStatus()
}

// Signal sends sig; a child that has ended is no error.
func (c *Child) Signal(sig syscall.Signal) error {
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	select {
	case <-c.done:
		return nil
	default:
	}
	if err := syscall.Kill(c.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signalling process %d: %w", c.PID, err)
	}
	return nil
}
