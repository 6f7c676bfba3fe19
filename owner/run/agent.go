package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/nodeapi"
)

// Deadlines of calls to the guest agent: it is the TEE's code, but the host
// carries its bytes and may withhold them, so that nothing waits for ever.
const (
	bootTimeout   = 120 * time.Second // VM start to the agent's first answer; TCG with OVMF takes about 9 s
	callTimeout   = 30 * time.Second
	createTimeout = 20 * time.Minute // CreateContainer pulls the image
	readLen       = 32 << 10
)

// agent is a connection to the guest agent.
type agent struct {
	agentpb.AgentServiceService
	health agentpb.HealthService
	client *ttrpc.Client
}

// dialAgent connects through the run directory's socket and waits for the
// first answer.
func dialAgent(ctx context.Context, dir string) (*agent, error) {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(dir, nodeapi.AgentSocket))
	if err != nil {
		return nil, fmt.Errorf("connecting to the guest agent: %w", err)
	}
	c := ttrpc.NewClient(conn, ttrpc.WithUnaryClientInterceptor(plainErrors))
	a := &agent{AgentServiceService: agentpb.NewAgentServiceClient(c), health: agentpb.NewHealthClient(c), client: c}
	if _, err := a.health.Check(ctx, &agentpb.CheckRequest{}); err != nil {
		_ = c.Close()
		if ctx.Err() != nil {
			return nil, &LaunchError{Msg: fmt.Sprintf("the guest agent did not answer within %s", bootTimeout)}
		}
		return nil, fmt.Errorf("waiting for the guest agent: %w", err)
	}
	return a, nil
}

// guestError is an error that the guest agent answered with, in its own words.
type guestError struct{ st *status.Status }

func (e *guestError) Error() string { return e.st.Message() }

// GRPCStatus lets the status package find the code.
func (e *guestError) GRPCStatus() *status.Status { return e.st }

// plainErrors takes the wire's words off errors, which people read.
func plainErrors(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	if err := invoke(ctx, req, resp); err != nil {
		return err
	}
	if st := status.FromProto(resp.GetStatus()); st.Code() != codes.OK {
		return &guestError{st}
	}
	return nil
}

func (a *agent) close() { _ = a.client.Close() }

// stream copies one output stream of a process to write until its end.
func (a *agent) stream(ctx context.Context, cid, execID string, stderr bool, write func([]byte)) error {
	req := &agentpb.ReadStreamRequest{ContainerId: cid, ExecId: execID, Len: readLen}
	read := a.ReadStdout
	if stderr {
		read = a.ReadStderr
	}
	for {
		resp, err := read(ctx, req)
		switch {
		case err != nil && (errors.Is(err, io.EOF) || errors.Is(err, ttrpc.ErrClosed)):
			return nil
		case err != nil:
			return err
		case len(resp.GetData()) == 0:
			return nil
		case len(resp.GetData()) > 4<<20:
			return errors.New("the agent answered a read with more than 4 MiB")
		}
		write(resp.GetData())
	}
}

// stdin copies r to the process until r ends, then closes its input.
func (a *agent) stdin(ctx context.Context, cid, execID string, r io.Reader) error {
	buf := make([]byte, readLen)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := a.WriteStdin(ctx, &agentpb.WriteStreamRequest{ContainerId: cid, ExecId: execID, Data: buf[:n]}); werr != nil {
				return werr
			}
		}
		if err != nil {
			_, cerr := a.CloseStdin(ctx, &agentpb.CloseStdinRequest{ContainerId: cid, ExecId: execID})
			return cerr
		}
	}
}
