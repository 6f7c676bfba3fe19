// Package restapi is the workload's door to its resources: HTTP on loopback, as
// the published api-server-rest (shared spec guest-components, section 5).
//
// Served now: GET /cdh/resource/<repository>/<type>/<tag>, and as an addition of
// ours its query version=, after= and wait= (api/kbs), the answer 304 where nothing
// newer came, and the header that names the version; GET /coffer/identity/x509/<name> and
// /coffer/identity/jwt/<name>?audience=, an addition too (api/svid); POST /aa/aael where the key
// holder has a socket for it. The other paths of the attestation part answer 404 as a
// server without that feature does.
//
// Invariants: only loopback peers, and none of the image parser's; every request is bounded in size, time and
// number; the process holds no key and no token, it passes questions on to the
// key holder's socket.
//
// Trust zone: guest, in a process of its own. Every other process in the pod's
// network namespace may ask.
package restapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/cdhpb"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/resource"
)

// DefaultAddr is the published address.
const DefaultAddr = "127.0.0.1:8006"

const (
	callTimeout    = 50 * time.Second
	maxConcurrent  = 64
	resourcePrefix = "/cdh/resource"
)

// Config says what Run serves.
type Config struct {
	Listener  net.Listener // on loopback; DefaultAddr if nil
	CDHSocket string       // key holder's socket
	// EventSocket is the key holder's socket for run-time events; "": none.
	EventSocket string
	Refused     []uint32 // users whose processes get nothing
	Logger      *slog.Logger
}

// Run serves until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	if cfg.CDHSocket == "" || cfg.Logger == nil {
		return errors.New("rest api: socket or logger missing")
	}
	if cfg.Listener == nil {
		l, err := net.Listen("tcp", DefaultAddr)
		if err != nil {
			return fmt.Errorf("rest api: %w", err)
		}
		cfg.Listener = l
	}
	srv := &http.Server{
		Handler:           notFrom(cfg.Refused, newHandler(&hub{socket: cfg.CDHSocket}, newRecorder(cfg.EventSocket))),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      callTimeout + 10*time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(&limitedListener{Listener: cfg.Listener, slots: make(chan struct{}, maxConcurrent)}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("rest api: %w", err)
	}
	return nil
}

// getter asks the key holder for a resource.
type getter interface {
	GetResource(ctx context.Context, uri string) (*cdhpb.GetResourceResponse, error)
}

func newHandler(g getter, rec recorder) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(resourcePrefix+"/", func(w http.ResponseWriter, r *http.Request) { serveResource(w, r, g) })
	mux.HandleFunc(identityPrefix+"/", func(w http.ResponseWriter, r *http.Request) { serveIdentity(w, r, g) })
	if rec != nil {
		mux.HandleFunc("POST /aa/aael", func(w http.ResponseWriter, r *http.Request) { serveEvent(w, r, rec) })
	}
	mux.HandleFunc("/aa/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "Attestation Feature Not Enabled", http.StatusNotFound)
	})
	return loopbackOnly(mux)
}

func loopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !a.Addr().Unmap().IsLoopback() {
			http.Error(w, "Forbidden", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func serveResource(w http.ResponseWriter, r *http.Request, g getter) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	v, err := kbs.ParseVersionQuery(r.URL.RawQuery)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// The escaped path, so that nothing is a slash that was not sent as one. Of the
	// query only what names versions goes on; the rest is dropped, as published.
	uri, err := resource.Parse("kbs://" + strings.TrimPrefix(r.URL.EscapedPath(), resourcePrefix))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	uri.Query = v.Encode()
	if v.Wait > 0 {
		rc, until := http.NewResponseController(w), time.Now().Add(callTimeout+v.Wait)
		if err := errors.Join(rc.SetReadDeadline(until), rc.SetWriteDeadline(until)); err != nil {
			http.Error(w, "cannot wait on this connection", http.StatusInternalServerError)
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout+v.Wait)
	defer cancel()
	rsp, err := g.GetResource(ctx, uri.String())
	if status.Code(err) == codes.OutOfRange {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if err != nil {
		http.Error(w, status.Convert(err).Message(), httpCode(err))
		return
	}
	b := rsp.GetResource()
	defer clear(b)
	if n := rsp.GetCofferVersion(); n != 0 {
		w.Header().Set(kbs.VersionHeader, strconv.FormatUint(n, 10))
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(b) // the workload hung up
}

// httpCode tells a missing resource and a refusal from a fault; the published
// server answers 500 to all.
func httpCode(err error) int {
	switch status.Code(err) {
	case codes.NotFound:
		return http.StatusNotFound
	case codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition:
		return http.StatusForbidden
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

// limitedListener bounds how many connections are open at once.
type limitedListener struct {
	net.Listener
	slots chan struct{}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

type limitedConn struct {
	net.Conn
	release func()
}

func (c *limitedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
