// Package node is coffer-node sandbox: the contract api/nodeapi over standard
// input and output, in front of a sandbox.Driver.
//
// Trust zone: host. The request comes from the user who started it; nothing in
// it gives more than that user has.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/api/channel"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/host/mux"
	"github.com/cofferproject/coffer/host/sandbox"
)

const (
	maxRequest = 8 << 20
	// requestTimeout is how long the request may take to arrive.
	requestTimeout = 30 * time.Second
	maxError       = 8 << 10
)

var idRE = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// NewDriver makes the driver for a request.
type NewDriver func(*nodeapi.Request) (sandbox.Driver, error)

// ErrFailed says that the reason was reported as an event.
var ErrFailed = errors.New("the sandbox could not be launched")

// Run serves one sandbox from in's request to its end. It returns when the
// sandbox is gone; ErrFailed if it never was.
func Run(ctx context.Context, in io.Reader, out io.Writer, newDriver NewDriver) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ev := &events{w: out}
	sb, srv, err := start(ctx, cancel, in, ev, newDriver)
	if err != nil {
		ev.send(failed(err))
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	go func() {
		<-ctx.Done()
		_ = sb.Destroy()
	}()
	exit := sb.Wait()
	_ = srv.Close()
	last := nodeapi.Event{Type: nodeapi.Exited, Reason: exit.Reason, Error: exit.Detail, Console: exit.Console}
	ev.send(last)
	return sb.Destroy() // tells what could not be removed
}

func start(ctx context.Context, cancel context.CancelCauseFunc, in io.Reader, ev *events, newDriver NewDriver) (sandbox.Sandbox, *mux.Server, error) {
	req, rest, err := readRequest(ctx, in)
	if err != nil {
		return nil, nil, err
	}
	// The end of the input is the wish for the sandbox's end, at any time.
	go func() {
		_, _ = io.Copy(io.Discard, rest)
		cancel(errors.New("standard input was closed"))
	}()
	if err := check(req); err != nil {
		return nil, nil, err
	}
	d, err := newDriver(req)
	if err != nil {
		return nil, nil, err
	}
	sb, err := d.Launch(ctx, req.ID, req.RunDir, &req.Launch, func(m string) {
		ev.send(nodeapi.Event{Type: nodeapi.Progress, Message: m})
	})
	if err != nil {
		return nil, nil, err
	}
	srv, err := mux.Serve(filepath.Join(req.RunDir, nodeapi.AgentSocket), func(ctx context.Context) (net.Conn, error) {
		return sb.Dial(ctx, byte(channel.KindTTRPC))
	})
	if err != nil {
		return nil, nil, errors.Join(err, sb.Destroy())
	}
	e := nodeapi.Event{Type: nodeapi.Ready, PIDs: sb.PIDs()}
	if t, ok := sb.(interface{ EKRoot() ([]byte, string) }); ok {
		e.EKRoot, e.EKRootSPKI = t.EKRoot()
	}
	if s, ok := sb.(interface{ Simulation() *nodeapi.Simulation }); ok {
		e.Simulation = s.Simulation()
	}
	launched := req.Launch
	launched.Initdata, launched.Publish = nil, nil
	e.Launched = &launched
	ev.send(e)
	return sb, srv, nil
}

// readRequest reads one JSON document; rest is what follows it.
func readRequest(ctx context.Context, in io.Reader) (*nodeapi.Request, io.Reader, error) {
	type result struct {
		req  *nodeapi.Request
		rest io.Reader
		err  error
	}
	got := make(chan result, 1)
	go func() {
		d := json.NewDecoder(io.LimitReader(in, maxRequest+1))
		d.DisallowUnknownFields()
		req := new(nodeapi.Request)
		err := d.Decode(req)
		if err == nil && d.InputOffset() > maxRequest {
			err = fmt.Errorf("longer than %d bytes", maxRequest)
		}
		got <- result{req, in, err}
	}()
	select {
	case r := <-got:
		if r.err != nil {
			return nil, nil, fmt.Errorf("reading the request: %w", r.err)
		}
		return r.req, r.rest, nil
	case <-time.After(requestTimeout):
		return nil, nil, fmt.Errorf("reading the request: nothing complete within %s", requestTimeout)
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("reading the request: %w", context.Cause(ctx))
	}
}

func check(req *nodeapi.Request) error {
	if !idRE.MatchString(req.ID) {
		return fmt.Errorf("request: id %.80q is not [a-z0-9-]{1,63}", req.ID)
	}
	if !filepath.IsAbs(req.RunDir) {
		return fmt.Errorf("request: run_dir %.256q is not absolute", req.RunDir)
	}
	fi, err := os.Lstat(req.RunDir)
	if err != nil {
		return fmt.Errorf("request: run_dir: %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !fi.IsDir() || fi.Mode().Perm() != 0o700 || !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("request: run_dir %s is not a directory of this user with mode 0700", req.RunDir)
	}
	return nil
}

func failed(err error) nodeapi.Event {
	e := nodeapi.Event{Type: nodeapi.Failed, Error: err.Error()}
	if len(e.Error) > maxError {
		e.Error = e.Error[:maxError]
	}
	var c interface{ ConsoleTail() string }
	if errors.As(err, &c) {
		e.Console = c.ConsoleTail()
	}
	return e
}

// events writes JSON lines. A reader that is gone is noticed on the input.
type events struct {
	mu sync.Mutex
	w  io.Writer
}

func (e *events) send(ev nodeapi.Event) {
	b, err := json.Marshal(ev)
	if err != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	_, _ = e.w.Write(append(b, '\n'))
}
