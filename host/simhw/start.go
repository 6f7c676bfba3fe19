package simhw

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/host/console"
	"github.com/cofferproject/coffer/host/supervise"
)

const maxReady = 1 << 20

// Start is what a launcher starts coffer-simhw with. The files stay the caller's.
type Start struct {
	Program string
	Config  *os.File // Config as JSON, at its start
	Guest   *os.File // its end of the guest's port
	Monitor *os.File // of QEMU; /dev/null where there is none
	Input   *os.File // the TEE's firmware, or what a process TEE is given as initdata
	// Started is told of the process at once, for who may have to end it.
	Started func(*exec.Cmd, *supervise.Output) error
}

// Run starts coffer-simhw and waits until it has measured and runs under its uid.
func (s *Start) Run(ctx context.Context) (*nodeapi.Simulation, error) {
	ready, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting coffer-simhw: %w", err)
	}
	defer ready.Close()
	out, ow, err := supervise.NewOutput()
	if err != nil {
		_ = w.Close()
		return nil, err
	}
	cmd, err := supervise.Start(&supervise.Command{
		Path: s.Program, Files: []*os.File{s.Guest, s.Monitor, s.Config, w, s.Input}, Output: ow,
	})
	err = errors.Join(err, ow.Close(), w.Close())
	if cmd == nil {
		out.Close()
		return nil, err
	}
	if err := errors.Join(err, s.Started(cmd, out)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	b, err := io.ReadAll(io.LimitReader(ready, maxReady+1))
	if err != nil {
		return nil, fmt.Errorf("starting coffer-simhw: %w", err)
	}
	var r Ready
	switch err := json.Unmarshal(b, &r); {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("starting coffer-simhw: %w", context.Cause(ctx))
	case err != nil || len(b) > maxReady:
		return nil, fmt.Errorf("starting coffer-simhw: it ended without a word: %s", console.Printable(out.Text()))
	case r.Error != "" || r.Simulation == nil:
		return nil, fmt.Errorf("the simulated hardware: %s", console.Printable(r.Error))
	}
	return r.Simulation, nil
}
