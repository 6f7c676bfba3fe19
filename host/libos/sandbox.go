package libos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/api/channel"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/host/console"
	"github.com/cofferproject/coffer/host/sandbox"
	"github.com/cofferproject/coffer/host/supervise"
)

// lostGrace is how long a guest that has left the channel may take to end.
const lostGrace = 5 * time.Second

// child is one of the sandbox's processes that this one has started.
type child struct {
	name string
	cmd  *exec.Cmd
	out  *supervise.Output // nil: the console
	done chan struct{}     // closed when it is reaped
}

// Sandbox is a running process TEE. It implements sandbox.Sandbox.
type Sandbox struct {
	dir        string
	console    *console.Console
	watcher    *supervise.Watcher
	simulation *nodeapi.Simulation
	channelEnd *os.File // ours, until answer has it

	connected, done chan struct{}

	mu       sync.Mutex
	children []*child
	pids     map[string]int
	session  *channel.Session
	why      string // the first reason for its end
	detail   string
	exit     sandbox.Exit
	cleaned  sync.Once
	cleanErr error
}

var _ sandbox.Sandbox = (*Sandbox)(nil)

func newSandbox(dir string) *Sandbox {
	return &Sandbox{dir: dir, connected: make(chan struct{}), done: make(chan struct{}), pids: map[string]int{}}
}

// Simulation is what coffer-simhw says of the hardware that it plays.
func (s *Sandbox) Simulation() *nodeapi.Simulation { return s.simulation }

// PIDs implements sandbox.Sandbox.
func (s *Sandbox) PIDs() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.pids)
}

func (s *Sandbox) pid(name string) int { return s.PIDs()[name] }

func (s *Sandbox) book(name string, pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pids[name] = pid
}

// add takes a started process over and reaps it.
func (s *Sandbox) add(name string, cmd *exec.Cmd, out *supervise.Output) {
	c := &child{name, cmd, out, make(chan struct{})}
	s.mu.Lock()
	s.children = append(s.children, c)
	s.pids[name] = cmd.Process.Pid
	s.mu.Unlock()
	go func() {
		_ = cmd.Wait() // how it ended is in ProcessState
		close(c.done)
	}()
}

// watch ends the sandbox when any of its processes has ended.
func (s *Sandbox) watch() {
	first := make(chan *child, len(s.children))
	for _, c := range s.children {
		go func() { <-c.done; first <- c }()
	}
	go func() {
		c := <-first
		if c.name != "runtime" { // the others end after it, with it
			select {
			case <-s.child("runtime").done:
				c = s.child("runtime")
			case <-time.After(500 * time.Millisecond):
			}
		}
		s.ended(c)
		s.kill()
		_ = s.cleanUp()
	}()
}

func (s *Sandbox) child(name string) *child {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

// ended says why, if nobody has before.
func (s *Sandbox) ended(c *child) {
	ws, _ := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case c.name == "runtime" && ws.Exited() && ws.ExitStatus() == 0:
		s.end(nodeapi.ReasonGuestShutdown, "")
	case c.name == "runtime" && (ws.Signaled() && ws.Signal() == syscall.SIGKILL || ws.ExitStatus() == 128+int(syscall.SIGKILL)):
		s.end(nodeapi.ReasonKilled, "somebody killed the library OS")
	default:
		what := fmt.Sprintf("%s ended: %s", c.name, c.cmd.ProcessState)
		if c.out != nil {
			if said := c.out.Text(); said != "" {
				what += ": " + console.Printable(said)
			}
		}
		s.end(nodeapi.ReasonCrashed, what)
	}
}

// end gives the reason of the end that follows.
func (s *Sandbox) end(why, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why == "" {
		s.why, s.detail = why, detail
	}
}

// kill ends all processes and waits for them. The runtime's children have its death
// as their signal.
func (s *Sandbox) kill() {
	s.mu.Lock()
	all := append([]*child(nil), s.children...)
	s.mu.Unlock()
	for _, c := range all {
		_ = c.cmd.Process.Kill()
	}
	for _, c := range all {
		<-c.done
	}
}

// answer opens the channel's session and ends a sandbox that has none or loses it.
func (s *Sandbox) answer(conn *os.File, timeout time.Duration) {
	go func() {
		defer close(s.connected)
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		go func() {
			select {
			case <-s.done:
				cancel()
			case <-ctx.Done():
			}
		}()
		session, err := channel.Host(ctx, conn)
		if err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				s.end(nodeapi.ReasonNoAnswer, "the guest did not answer on its channel in time")
			}
			go s.lost("the guest's channel: " + console.Printable(err.Error()))
			return
		}
		s.mu.Lock()
		s.session = session
		s.mu.Unlock()
		go func() {
			<-session.Done()
			s.lost("the guest closed its channel and did not power off")
		}()
	}()
}

// lost ends a sandbox whose channel has gone, unless it ends by itself.
func (s *Sandbox) lost(why string) {
	select {
	case <-s.done:
		return
	case <-time.After(lostGrace):
	}
	s.end(nodeapi.ReasonCrashed, why)
	if c := s.child("runtime"); c != nil {
		_ = c.cmd.Process.Kill()
	}
}

// Dial implements sandbox.Sandbox.
func (s *Sandbox) Dial(ctx context.Context, kind byte) (net.Conn, error) {
	select {
	case <-s.connected:
	case <-s.done:
		return nil, fmt.Errorf("dialing the guest: it is gone: %w", net.ErrClosed)
	case <-ctx.Done():
		return nil, fmt.Errorf("dialing the guest: %w", context.Cause(ctx))
	}
	s.mu.Lock()
	session := s.session
	s.mu.Unlock()
	if session == nil {
		return nil, fmt.Errorf("dialing the guest: it has not answered: %w", net.ErrClosed)
	}
	return session.Open(ctx, channel.Kind(kind))
}

// Wait implements sandbox.Sandbox.
func (s *Sandbox) Wait() sandbox.Exit {
	<-s.done
	return s.exit
}

// Destroy implements sandbox.Sandbox.
func (s *Sandbox) Destroy() error {
	s.end(nodeapi.ReasonDestroyed, "")
	s.kill()
	<-s.done
	return s.cleanErr
}

func (s *Sandbox) tail() string {
	if s.console == nil {
		return ""
	}
	return s.console.Tail()
}

// cleanUp removes what the launch has made; the processes are reaped.
func (s *Sandbox) cleanUp() error {
	s.cleaned.Do(func() {
		s.mu.Lock()
		session := s.session
		s.mu.Unlock()
		if session != nil {
			_ = session.Close()
		} else if s.channelEnd != nil {
			_ = s.channelEnd.Close()
		}
		if s.console != nil {
			select {
			case <-s.console.Done():
			case <-time.After(time.Second):
			}
		}
		s.mu.Lock()
		s.exit.Reason, s.exit.Detail = s.why, s.detail
		s.mu.Unlock()
		if s.exit.Reason != nodeapi.ReasonDestroyed {
			s.exit.Console = s.tail()
		}
		s.cleanErr = s.remove()
		close(s.done)
	})
	return s.cleanErr
}

func (s *Sandbox) remove() error {
	if s.watcher != nil {
		return s.watcher.Close()
	}
	var errs []error
	for _, n := range madeFiles {
		errs = append(errs, os.RemoveAll(filepath.Join(s.dir, n)))
	}
	return errors.Join(errs...)
}

// children names the processes that the runtime has started: the Sentry and the
// gofer, by what they call themselves.
func children(runtime int) map[string]int {
	out := map[string]int{}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", runtime))
	if err != nil {
		return out
	}
	for _, l := range lists {
		b, err := os.ReadFile(l)
		if err != nil {
			continue // a thread that has ended
		}
		for _, f := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				continue
			}
			cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if err != nil {
				continue
			}
			argv0, _, _ := bytes.Cut(cmdline, []byte{0})
			name := strings.TrimPrefix(filepath.Base(string(argv0)), "runsc-")
			if _, taken := out[name]; taken || name == "" {
				name += "-" + f
			}
			out[name] = pid
		}
	}
	return out
}
