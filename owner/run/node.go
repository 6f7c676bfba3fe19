package run

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/api/nodeapi"
)

// Binary finds one of Coffer's programs: beside this one, else on PATH.
func Binary(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		if p := filepath.Join(filepath.Dir(self), name); isExecutable(p) {
			return p, nil
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("finding %s: it is neither beside coffer nor on PATH (make build makes it)", name)
	}
	return p, nil
}

func isExecutable(p string) bool {
	fi, err := os.Stat(p)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

// node is a coffer-node sandbox child.
type node struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	events chan nodeapi.Event // closed when the child's output ends
	ready  nodeapi.Event
	done   chan struct{} // closed after the child is reaped
}

// LaunchError says that the TEE could not be started or died.
type LaunchError struct {
	Msg     string
	Console string
}

func (e *LaunchError) Error() string {
	if e.Console == "" {
		return e.Msg
	}
	return e.Msg + "\nconsole, last lines:\n" + e.Console
}

// launchTimeout bounds the time from the request to "ready".
const launchTimeout = 60 * time.Second

// startNode starts coffer-node sandbox and waits until the VM runs.
func startNode(ctx context.Context, req *nodeapi.Request, progress func(string)) (*node, error) {
	bin, err := Binary("coffer-node")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(bin, "sandbox")
	cmd.Stderr = os.Stderr
	// Its own process group: a Ctrl-C in the terminal is ours to handle first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := startLocked(cmd); err != nil {
		return nil, fmt.Errorf("starting coffer-node: %w", err)
	}
	n := &node{cmd: cmd, stdin: stdin, events: make(chan nodeapi.Event, 16), done: make(chan struct{})}
	go n.read(stdout)
	b, err := json.Marshal(req)
	if err == nil {
		_, err = stdin.Write(append(b, '\n'))
	}
	if err != nil {
		n.stop()
		return nil, fmt.Errorf("asking coffer-node for a sandbox: %w", err)
	}
	t := time.NewTimer(launchTimeout)
	defer t.Stop()
	for {
		select {
		case ev, ok := <-n.events:
			switch {
			case !ok:
				n.stop()
				return nil, &LaunchError{Msg: "coffer-node ended without starting the TEE"}
			case ev.Type == nodeapi.Progress:
				progress(ev.Message)
			case ev.Type == nodeapi.Ready:
				n.ready = ev
				return n, nil
			case ev.Type == nodeapi.Failed || ev.Type == nodeapi.Exited:
				n.stop()
				msg := ev.Error
				if msg == "" {
					msg = "the TEE ended at once: " + ev.Reason
				}
				return nil, &LaunchError{Msg: msg, Console: ev.Console}
			}
		case <-t.C:
			n.stop()
			return nil, &LaunchError{Msg: fmt.Sprintf("coffer-node did not start the TEE within %s", launchTimeout)}
		case <-ctx.Done():
			n.stop()
			return nil, ctx.Err()
		}
	}
}

// read turns the child's output into events, then reaps it.
func (n *node) read(r io.Reader) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), 1<<20)
	for sc.Scan() {
		var ev nodeapi.Event
		if json.Unmarshal(sc.Bytes(), &ev) == nil {
			n.events <- ev
		}
	}
	close(n.events)
	_ = n.cmd.Wait() // how it ended was an event; the code adds nothing
	close(n.done)
}

// stop destroys the sandbox: end of file on the child's input tells it to.
func (n *node) stop() {
	_ = n.stdin.Close()
	go func() {
		for range n.events { // nobody else reads any more
		}
	}()
	select {
	case <-n.done:
		return
	case <-time.After(5 * time.Second):
	}
	_ = n.cmd.Process.Kill()
	<-n.done
}

// reasonNoLauncher is the reason of our own where no launcher is left to give one.
const reasonNoLauncher = "launcher-gone"

// waitExited blocks until the sandbox is gone and gives the last event.
func (n *node) waitExited(ctx context.Context) (nodeapi.Event, error) {
	for {
		select {
		case ev, ok := <-n.events:
			if !ok {
				return nodeapi.Event{Type: nodeapi.Exited, Reason: reasonNoLauncher}, nil
			}
			if ev.Type == nodeapi.Exited {
				return ev, nil
			}
		case <-ctx.Done():
			return nodeapi.Event{}, ctx.Err()
		}
	}
}

// startLocked starts cmd from a thread that lives as long as this process: the
// parent-death signal is tied to the *thread* that forked.
func startLocked(cmd *exec.Cmd) error {
	errc := make(chan error, 1)
	forker <- func() { errc <- cmd.Start() }
	return <-errc
}

var forker = make(chan func())

func init() {
	go func() {
		lockThread()
		for f := range forker {
			f()
		}
	}()
}

var errNotRunning = errors.New("the pod is not running any more")
