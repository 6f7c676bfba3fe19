package snapshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

// Config says how to serve.
type Config struct {
	Listen     string // socket that containerd's proxy plugin names
	Root       string // folder of the snapshotter's state
	Containerd string // containerd's own socket; empty: no named users, no healing
	Name       string // under which containerd knows this snapshotter
	KataVolume bool   // say KataVirtualVolume in containers' mounts, for other runtimes than Coffer's
	Log        *slog.Logger
	Now        func() time.Time
}

// maxMessage bounds a request; containerd's are below 64 labels of 4096 bytes.
const maxMessage = 512 << 10

// Serve answers until ctx ends.
func Serve(ctx context.Context, c Config) (err error) {
	switch {
	case c.Listen == "" || !filepath.IsAbs(c.Listen) || !filepath.IsAbs(c.Root):
		return errors.New("the socket and the root folder must be absolute paths")
	case c.Name == "" || c.Log == nil || c.Now == nil:
		return errors.New("no name, log or clock")
	}
	if err := makeRoot(c.Root); err != nil {
		return err
	}
	st, err := openStore(c.Root, c.Now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	s := &service{store: st, roots: roots{filepath.Join(c.Root, "roots")}, kata: c.KataVolume, log: c.Log}
	if err := s.begin(); err != nil {
		return err
	}
	if c.Containerd != "" {
		conn, err := dial(c.Containerd)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		r := newImageReader(conn)
		s.users = r
		healed := make(chan struct{})
		ctx, cancel := context.WithCancel(ctx)
		go func() { defer close(healed); newHealer(c.Name, conn, r, c.Log).run(ctx) }()
		defer func() { cancel(); <-healed }()
	}
	l, err := listen(c.Listen)
	if err != nil {
		return err
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage))
	api.RegisterSnapshotsServer(g, s)
	stop := context.AfterFunc(ctx, g.GracefulStop)
	defer stop()
	c.Log.Info("serving snapshots", "socket", c.Listen, "root", c.Root)
	return g.Serve(l)
}

// dial reaches containerd whenever it is there: it may start after us and restart.
// Who calls us is containerd itself, so waiting a moment for the connection is right.
func dial(socket string) (*grpc.ClientConn, error) {
	b := backoff.DefaultConfig
	b.BaseDelay, b.MaxDelay = 100*time.Millisecond, time.Second
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: b, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(maxBlob+1<<20)),
	)
	if err != nil {
		return nil, fmt.Errorf("reaching containerd: %w", err)
	}
	return conn, nil
}

// begin removes what a crash has left.
func (s *service) begin() error {
	if err := os.MkdirAll(s.roots.dir, 0o700); err != nil {
		return fmt.Errorf("making the folder of roots: %w", err)
	}
	used := map[string]bool{}
	if err := s.store.walk(func(_ string, r *record) error { used[r.Root] = true; return nil }); err != nil {
		return err
	}
	return s.roots.sweep(used)
}

// listen makes a socket for root alone in place of one that a crash has left. The
// store's lock has shown that no other snapshotter has this root.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the socket's folder: %w", err)
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("%s is there and is no socket", path)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			return nil, errors.Join(fmt.Errorf("%s: somebody listens there", path), c.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing an old socket: %w", err)
		}
	}
	old := syscall.Umask(0o177) // so that there is no moment with a wider mode
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	return l, nil
}

func unmarshal(b []byte, m proto.Message) error {
	return proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m)
}
