// Package agentdrive speaks to a guest agent as a host would, for tests: over a
// plain Unix socket, or over the guest channel of a virtual machine.
package agentdrive

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/channel"
)

// Agent is a connection to an agent.
type Agent struct {
	agentpb.AgentServiceService
	Health agentpb.HealthService
	close  []func() error
}

// Dial connects to an agent that serves ttrpc on a Unix socket.
func Dial(ctx context.Context, socket string) (*Agent, error) {
	conn, err := dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	return client(conn), nil
}

// DialChannel connects to the agent of a VM whose guest channel is a Unix socket.
func DialChannel(ctx context.Context, socket string) (*Agent, error) {
	conn, err := dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	s, err := channel.Host(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("opening the guest channel: %w", err)
	}
	stream, err := s.Open(ctx, channel.KindTTRPC)
	if err != nil {
		return nil, fmt.Errorf("opening a stream: %w", err)
	}
	a := client(stream)
	a.close = append(a.close, s.Close)
	return a, nil
}

func dial(ctx context.Context, socket string) (net.Conn, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connecting to the agent: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func client(conn net.Conn) *Agent {
	c := ttrpc.NewClient(conn)
	return &Agent{AgentServiceService: agentpb.NewAgentServiceClient(c), Health: agentpb.NewHealthClient(c), close: []func() error{c.Close}}
}

// Close ends the connection.
func (a *Agent) Close() {
	for _, f := range a.close {
		_ = f()
	}
}

// Output reads a process's standard output to its end.
func (a *Agent) Output(ctx context.Context, containerID, execID string) (string, error) {
	return readAll(ctx, a.ReadStdout, containerID, execID)
}

// ErrorOutput reads a process's standard error to its end.
func (a *Agent) ErrorOutput(ctx context.Context, containerID, execID string) (string, error) {
	return readAll(ctx, a.ReadStderr, containerID, execID)
}

func readAll(ctx context.Context, read func(context.Context, *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error), containerID, execID string) (string, error) {
	var out bytes.Buffer
	for {
		r, err := read(ctx, &agentpb.ReadStreamRequest{ContainerId: containerID, ExecId: execID, Len: 32 << 10})
		if err != nil {
			return out.String(), err
		}
		if len(r.Data) == 0 {
			return out.String(), nil
		}
		out.Write(r.Data)
	}
}

// Wait gives a process's exit code.
func (a *Agent) Wait(ctx context.Context, containerID, execID string) (int, error) {
	r, err := a.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: containerID, ExecId: execID})
	if err != nil {
		return 0, err
	}
	return int(r.Status), nil
}
