package release

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/trustee/audit"
)

// Why an answer was not delivered. docs/denials.md explains each.
const (
	ReasonPeerGone denial.Reason = "delivery-peer-gone"
	ReasonLate     denial.Reason = "delivery-late"
	ReasonNotSent  denial.Reason = "delivery-failed"
)

// Delivered records what became of a secret on its way out, with the error of writing
// it: nil says that all of it was handed to the network. Nobody waits for that record.
func (g *Gate) Delivered(out *Released, err error) {
	e := out.entry
	e.Kind = audit.KindDelivered
	if err != nil {
		e.Kind, e.Component, e.Reason = audit.KindUndelivered, Component, string(undelivered(err))
	}
	g.cfg.Audit.AppendLater(&e)
}

func undelivered(err error) denial.Reason {
	var n net.Error
	switch {
	case errors.Is(err, ErrRefused):
		return ReasonPluginRefused
	case errors.Is(err, errPlugin):
		return ReasonPlugin
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &n) && n.Timeout():
		return ReasonLate
	case errors.Is(err, context.Canceled), errors.Is(err, net.ErrClosed), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return ReasonPeerGone
	}
	return ReasonNotSent
}
