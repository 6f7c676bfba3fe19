package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/trustee/ops"
	"github.com/cofferproject/coffer/trustee/ratelimit"
	"github.com/cofferproject/coffer/trustee/secretstore"
	"github.com/cofferproject/coffer/trustee/store"
)

// Operations says how the server is run; zero members are the defaults below.
type Operations struct {
	// Listen is the address of /metrics, /healthz and /readyz, without TLS and for
	// operators alone; "": none.
	Listen string
	// PeerRate and NamespaceRate are requests each second of one network address (an
	// IPv6 /64) and to one namespace; twice as many may come at once. Below 0: no
	// limit.
	PeerRate, NamespaceRate float64
	// PeerConns is how many connections one network address may have; 0: half of all.
	PeerConns int
	// DrainDelay is how long the server goes on, not ready, before it stops to
	// listen, so that what balances the load can notice.
	DrainDelay time.Duration
}

// Defaults. The rates keep a runaway client from using up a machine; who knows how
// many guests share an address sets them.
const (
	defaultPeerRate      = 5000
	defaultNamespaceRate = 20_000

	rememberPeers = 20_000 // buckets; twice that at most
	opsConns      = 64
	spareDisk     = 1 << 20 // bytes without which a disk counts as full
)

func limiter(rate, byDefault float64, now func() time.Time) (*ratelimit.Limiter, error) {
	switch {
	case rate < 0:
		return nil, nil
	case rate == 0:
		rate = byDefault
	}
	return ratelimit.New(rate, max(1, 2*rate), rememberPeers, now)
}

// front makes what stands before the interfaces.
func (s *Server) front(next http.Handler) (http.Handler, error) {
	o := s.cfg.Operations
	peer, err := limiter(o.PeerRate, defaultPeerRate, s.cfg.Now)
	if err != nil {
		return nil, err
	}
	ns, err := limiter(o.NamespaceRate, defaultNamespaceRate, s.cfg.Now)
	if err != nil {
		return nil, err
	}
	f := ops.NewFront(s.metrics, peer, ns)
	f.Trace = s.tracer
	return f.Wrap(next), nil
}

// readiness uses the store and the audit log.
func (s *Server) readiness() *ops.Ready {
	return ops.NewReady(s.cfg.Log, time.Now,
		ops.Check{Name: "store", Do: func(ctx context.Context) error {
			if _, ok := s.store.(store.Health); ok {
				return s.Healthy() // a database that replicas share knows by itself
			}
			if err := s.store.Update(ctx, func(tx store.Tx) error {
				return tx.Put("health", "checked", []byte(s.cfg.Now().UTC().Format(time.RFC3339)))
			}); err != nil {
				return err
			}
			return roomAt(s.cfg.State) // this little may have fitted into what the file has free
		}},
		ops.Check{Name: "audit log", Do: func(ctx context.Context) error {
			if err := s.audit.Check(ctx); err != nil || s.cfg.Audit.InStore {
				return err
			}
			return roomAt(filepath.Join(s.cfg.State, "audit"))
		}})
}

// roomAt reports a disk that is full, or about to be.
func roomAt(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("free space: %w", err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < spareDisk {
		return fmt.Errorf("free space: %d bytes, less than %d", free, spareDisk)
	}
	return nil
}

// listenOps opens the operators' listener.
func (s *Server) listenOps(ctx context.Context) error {
	if s.cfg.Operations.Listen == "" {
		return nil
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Operations.Listen)
	if err != nil {
		return fmt.Errorf("operations: %w", err)
	}
	s.opsLn = ln
	s.opsHTTP = &http.Server{
		Handler: ops.Handler(s.metrics, s.ready), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: 60 * time.Second, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	attend(s.opsHTTP)
	go func() { _ = s.opsHTTP.Serve(newLimited(ln, opsConns, 0, nil, func() {})) }()
	return nil
}

// OpsURL gives the URL of the operators' listener, "" if there is none.
func (s *Server) OpsURL() string {
	if s.opsLn == nil {
		return ""
	}
	return "http://" + s.opsLn.Addr().String()
}

// Drain is the beginning of the end: not ready any more, and nobody waits, but all
// is answered until Close.
func (s *Server) Drain(ctx context.Context) {
	s.ready.Drain()
	s.gate.Drain()
	select {
	case <-time.After(s.cfg.Operations.DrainDelay):
	case <-ctx.Done():
	}
}

// storeNames are the operator's own, from the configuration.
func storeNames(specs []*secretstore.Spec) []string {
	var out []string
	for _, s := range specs {
		out = append(out, s.Name)
	}
	return out
}
