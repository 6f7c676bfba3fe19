package shim

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// guestError is the guest agent's answer.
type guestError struct{ st *status.Status }

// Error is for a pod's events: a refusal says who refused what, and what its reader
// can do.
func (e *guestError) Error() string {
	if d := refusal(e.st); d != nil {
		return refusalText(d)
	}
	return e.st.Message()
}

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

// call asks the guest within a time and drops what it answers.
func call[Q, A any](ctx context.Context, timeout time.Duration, f func(context.Context, Q) (A, error), q Q) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := f(ctx, q)
	return err
}

// ask is call for who waits no longer than a time: a guest that reads nothing holds up
// the sending too, whatever ctx says.
func ask[Q, A any](ctx context.Context, timeout time.Duration, f func(context.Context, Q) (A, error), q Q) <-chan error {
	answer := make(chan error, 1)
	go func() { answer <- call(context.WithoutCancel(ctx), timeout, f, q) }()
	return answer
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return b, nil
}
