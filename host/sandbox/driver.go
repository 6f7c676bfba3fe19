// Package sandbox is the one interface behind which every way to hold a pod
// stands: a local VM, a remote VM, a library OS (design.md section 1).
//
// Trust zone: host. Nothing here is trusted with a secret.
package sandbox

import (
	"context"
	"net"

	"github.com/cofferproject/coffer/api/launch"
)

// Driver launches TEEs. Implementations are safe for concurrent use.
type Driver interface {
	// Launch starts a TEE from measured inputs. It returns when the TEE runs;
	// the guest agent may still be booting. On error nothing is left behind.
	// dir is an existing private directory for sockets and logs.
	Launch(ctx context.Context, id, dir string, spec *launch.Spec, progress func(string)) (Sandbox, error)
}

// Sandbox is a running TEE.
type Sandbox interface {
	// Dial opens a stream of the guest channel of the given kind (a byte of
	// api/channel). It waits for the guest to answer until ctx ends.
	Dial(ctx context.Context, kind byte) (net.Conn, error)
	// Wait blocks until the TEE is gone and tells how it ended.
	Wait() Exit
	// Destroy ends the TEE at once and removes everything that Launch made.
	// It is idempotent.
	Destroy() error
	// PIDs names the host processes of the sandbox.
	PIDs() map[string]int
}

// Exit says how a sandbox ended.
type Exit struct {
	Reason  string // see nodeapi.Event.Reason
	Detail  string // what ended first and its last words; "": the reason says it all
	Console string // last lines of the console, at most 4 KiB
}
