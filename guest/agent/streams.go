package agent

import (
	"context"
	"syscall"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/guest/container"
)

// Bounds of one read.
const (
	defaultRead = 32 << 10
	maxRead     = 1 << 20
)

// SignalProcess signals a process; SIGKILL of the container's own ends all of them.
func (s *Server) SignalProcess(ctx context.Context, req *agentpb.SignalProcessRequest) (*emptypb.Empty, error) {
	c, t, _, err := s.task(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.Signal(t, syscall.Signal(req.GetSignal())); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// WaitProcess waits for a process's end.
func (s *Server) WaitProcess(ctx context.Context, _ *agentpb.WaitProcessRequest) (*agentpb.WaitProcessResponse, error) {
	c, t, g, err := s.task(ctx)
	if err != nil {
		return nil, err
	}
	code, err := t.Wait(ctx)
	if err != nil {
		return nil, err
	}
	c.Forget(g.ExecID)
	return &agentpb.WaitProcessResponse{Status: int32(code)}, nil
}

// ReadStdout waits for output; an answer without data means its end.
func (s *Server) ReadStdout(ctx context.Context, req *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return s.read(ctx, req, (*container.Task).ReadStdout)
}

// ReadStderr waits for error output.
func (s *Server) ReadStderr(ctx context.Context, req *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return s.read(ctx, req, (*container.Task).ReadStderr)
}

func (s *Server) read(ctx context.Context, req *agentpb.ReadStreamRequest, read func(*container.Task, context.Context, int) ([]byte, error)) (*agentpb.ReadStreamResponse, error) {
	_, t, g, err := s.task(ctx)
	if err != nil {
		return nil, err
	}
	if g.Drain { // the output is the owner's; it is drained since the start
		return &agentpb.ReadStreamResponse{}, nil
	}
	n := min(int(req.GetLen()), maxRead)
	if n <= 0 {
		n = defaultRead
	}
	b, err := read(t, ctx, n)
	if err != nil {
		return nil, err
	}
	return &agentpb.ReadStreamResponse{Data: b}, nil
}

// WriteStdin writes to a process; no data closes its standard input, which is
// how one of the published shims does it.
func (s *Server) WriteStdin(ctx context.Context, req *agentpb.WriteStreamRequest) (*agentpb.WriteStreamResponse, error) {
	_, t, _, err := s.task(ctx)
	if err != nil {
		return nil, err
	}
	if len(req.GetData()) == 0 {
		t.CloseStdin()
		return &agentpb.WriteStreamResponse{}, nil
	}
	if err := t.WriteStdin(ctx, req.GetData()); err != nil {
		return nil, err
	}
	return &agentpb.WriteStreamResponse{Len: uint32(len(req.GetData()))}, nil
}

// CloseStdin lets a process read the end of its input.
func (s *Server) CloseStdin(ctx context.Context, _ *agentpb.CloseStdinRequest) (*emptypb.Empty, error) {
	_, t, _, err := s.task(ctx)
	if err != nil {
		return nil, err
	}
	t.CloseStdin()
	return &emptypb.Empty{}, nil
}

// TtyWinResize sets the size of a process's terminal.
func (s *Server) TtyWinResize(ctx context.Context, req *agentpb.TtyWinResizeRequest) (*emptypb.Empty, error) {
	_, t, _, err := s.task(ctx)
	if err != nil {
		return nil, err
	}
	if err := t.Resize(uint16(req.GetRow()), uint16(req.GetColumn())); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
