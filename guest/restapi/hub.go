package restapi

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/cdhpb"
)

var errNoAnswer = status.Error(codes.Unavailable, "the key holder does not answer")

// hub keeps one connection to the key holder and dials again when it broke.
type hub struct {
	socket string
	mu     sync.Mutex
	client *ttrpc.Client
}

// GetResource implements getter.
func (h *hub) GetResource(ctx context.Context, uri string) ([]byte, error) {
	var out []byte
	err := h.ask(ctx, func(c *ttrpc.Client) error {
		rsp, err := cdhpb.NewGetResourceServiceClient(c).GetResource(ctx, &cdhpb.GetResourceRequest{ResourcePath: uri})
		out = rsp.GetResource()
		return err
	})
	return out, err
}

// ask asks, a second time if the connection turned out to be dead.
func (h *hub) ask(ctx context.Context, call func(*ttrpc.Client) error) error {
	for attempt := 0; ; attempt++ {
		c, err := h.connect(ctx)
		if err != nil {
			return errNoAnswer
		}
		if err = call(c); err == nil || attempt > 0 || !errors.Is(err, ttrpc.ErrClosed) {
			return err
		}
		h.drop(c)
	}
}

func (h *hub) connect(ctx context.Context) (*ttrpc.Client, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client == nil {
		conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", h.socket)
		if err != nil {
			return nil, err
		}
		h.client = ttrpc.NewClient(conn)
	}
	return h.client, nil
}

func (h *hub) drop(c *ttrpc.Client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client == c {
		h.client = nil
	}
	_ = c.Close()
}
