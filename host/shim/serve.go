package shim

import (
	"context"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
)

// names are the two under which containerd asks for the task API; their messages
// are the same bytes.
var names = []string{"containerd.task.v2.Task", "containerd.task.v3.Task"}

func method[Q any, P interface {
	*Q
	proto.Message
}, A any](f func(context.Context, P) (A, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		req := P(new(Q))
		if err := unmarshal(req); err != nil {
			return nil, err
		}
		return f(ctx, req)
	}
}

// register offers s as the sandbox API and under both versions of the task API.
func register(srv *ttrpc.Server, s *Service) {
	sandboxapi.RegisterTTRPCSandboxService(srv, s)
	for _, name := range names {
		srv.RegisterService(name, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
			"State": method(s.State), "Create": method(s.Create), "Start": method(s.Start), "Delete": method(s.Delete), "Pids": method(s.Pids),
			"Pause": method(s.Pause), "Resume": method(s.Resume), "Checkpoint": method(s.Checkpoint), "Kill": method(s.Kill), "Exec": method(s.Exec),
			"ResizePty": method(s.ResizePty), "CloseIO": method(s.CloseIO), "Update": method(s.Update), "Wait": method(s.Wait), "Stats": method(s.Stats),
			"Connect": method(s.Connect), "Shutdown": method(s.Shutdown),
		}})
	}
}
