package run

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/cofferproject/coffer/api/agentpb"
)

// ExecOptions says what to start and where its streams go.
type ExecOptions struct {
	Container string
	Args      []string
	TTY       bool
	Stdin     *os.File // nil: none
	Stdout    io.Writer
	Stderr    io.Writer
}

// Exec starts a process in a running pod and gives its exit code. The request
// goes through the coffer run that owns the pod, which alone knows the
// environment; the streams go to the guest agent directly.
func Exec(ctx context.Context, dir string, o ExecOptions) (int, error) {
	var resp ExecResponse
	if err := callControl(ctx, dir, http.MethodPost, "/v1/exec", ExecRequest{Container: o.Container, Args: o.Args, TTY: o.TTY}, &resp); err != nil {
		return 0, err
	}
	a, err := dialAgent(ctx, dir)
	if err != nil {
		return 0, err
	}
	defer a.close()
	cid, eid := resp.ContainerID, resp.ExecID
	if o.TTY && o.Stdin != nil && term.IsTerminal(int(o.Stdin.Fd())) {
		old, err := term.MakeRaw(int(o.Stdin.Fd()))
		if err == nil {
			defer func() { _ = term.Restore(int(o.Stdin.Fd()), old) }()
		}
		stop := followSize(ctx, a, o.Stdin, cid, eid)
		defer stop()
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	copyTo := func(w io.Writer, stderr bool) {
		wg.Go(func() {
			_ = a.stream(ctx, cid, eid, stderr, func(b []byte) {
				mu.Lock()
				defer mu.Unlock()
				_, _ = w.Write(b)
			})
		})
	}
	copyTo(o.Stdout, false)
	if !o.TTY {
		copyTo(o.Stderr, true)
	}
	if o.Stdin != nil {
		go func() { _ = a.stdin(ctx, cid, eid, o.Stdin) }()
	} else {
		_, _ = a.CloseStdin(ctx, &agentpb.CloseStdinRequest{ContainerId: cid, ExecId: eid})
	}
	w, err := a.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: cid, ExecId: eid})
	if err != nil {
		return 0, fmt.Errorf("waiting for the command: %w", err)
	}
	wg.Wait()
	return int(w.GetStatus()), nil
}

// followSize keeps the guest's terminal as large as ours.
func followSize(ctx context.Context, a *agent, f *os.File, cid, eid string) func() {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGWINCH)
	resize := func() {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil {
			_, _ = a.TtyWinResize(ctx, &agentpb.TtyWinResizeRequest{ContainerId: cid, ExecId: eid, Row: uint32(h), Column: uint32(w)})
		}
	}
	resize()
	go func() {
		for range ch {
			resize()
		}
	}()
	return func() { signal.Stop(ch); close(ch) }
}

// Logs prints a container's log file: stdout lines to out, stderr lines to errw.
func Logs(ctx context.Context, dir, container string, follow, timestamps bool, out, errw io.Writer) error {
	path := filepath.Join(dir, logDir, container+".log")
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) && !follow {
		return nil // not started yet: nothing written
	}
	for err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("reading logs: %w", err)
		}
		if _, serr := os.Stat(dir); serr != nil {
			return nil
		}
		if werr := pause(ctx); werr != nil {
			return nil
		}
		f, err = os.Open(path)
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 128<<10)
	var line []byte
	for {
		part, err := r.ReadBytes('\n')
		line = append(line, part...)
		if err == nil {
			printLog(string(line), timestamps, out, errw)
			line = line[:0]
			continue
		}
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading logs: %w", err)
		}
		if !follow {
			return nil
		}
		if _, err := os.Stat(dir); err != nil {
			return nil // the pod is gone
		}
		if err := pause(ctx); err != nil {
			return nil
		}
	}
}

func printLog(line string, timestamps bool, out, errw io.Writer) {
	p := strings.SplitN(line, " ", 4)
	if len(p) < 4 {
		return
	}
	w := out
	if p[1] == "stderr" {
		w = errw
	}
	if timestamps {
		_, _ = io.WriteString(w, p[0]+" ")
	}
	_, _ = io.WriteString(w, p[3])
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(50 * time.Millisecond):
		return nil
	}
}
