package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/asapi"
)

// Services says where the published Attestation Service and Reference Value
// Provider Service listen, for other programs than this trustee's own KBS. The
// zero value serves neither.
type Services struct {
	Attestation string // address of gRPC and REST; "": none
	Reference   string // address of the reference values' gRPC alone; "": none
	Namespace   string // that both serve; "": default
	// ClientCA and AdminCA are files of certificates (PEM) whose owners issue the
	// callers' certificates: the first's may have evidence judged, the second's may
	// change policies and reference values as well. Without either the address must
	// be loopback, is served without TLS and changes nothing.
	ClientCA, AdminCA string
	// InsecureUnbound takes evidence that no runtime data ties to a session.
	InsecureUnbound bool
}

func (c *Services) enabled() bool { return c.Attestation != "" || c.Reference != "" }

// service is one further listener.
type service struct {
	ln     net.Listener
	http   *http.Server
	secure bool
}

// url gives the base URL.
func (v *service) url() string {
	if v == nil {
		return ""
	}
	scheme := "http://"
	if v.secure {
		scheme = "https://"
	}
	return scheme + v.ln.Addr().String()
}

const maxCAFile = 1 << 20 // bytes

// listenServices opens the further listeners.
func (s *Server) listenServices(ctx context.Context, as *asapi.Service) error {
	c := &s.cfg.Services
	clients, admins, err := c.authorities()
	if err != nil {
		return err
	}
	if c.Attestation != "" {
		if s.as, err = s.listenService(ctx, c.Attestation, as.Handler(admins), clients); err != nil {
			return fmt.Errorf("attestation service: %w", err)
		}
	}
	if c.Reference != "" {
		if s.rvps, err = s.listenService(ctx, c.Reference, as.ReferenceHandler(admins), clients); err != nil {
			return fmt.Errorf("reference value provider service: %w", err)
		}
	}
	return nil
}

// authorities reads the two files. clients holds both; nil where there is neither.
func (c *Services) authorities() (clients, admins *x509.CertPool, err error) {
	for _, f := range []struct {
		path  string
		admin bool
	}{{c.ClientCA, false}, {c.AdminCA, true}} {
		if f.path == "" {
			continue
		}
		b, err := readBounded(f.path, maxCAFile)
		if err != nil {
			return nil, nil, fmt.Errorf("client authorities: %w", err)
		}
		if clients == nil {
			clients = x509.NewCertPool()
		}
		if !clients.AppendCertsFromPEM(b) {
			return nil, nil, fmt.Errorf("client authorities: %s holds no certificate", f.path)
		}
		if f.admin {
			admins = x509.NewCertPool()
			admins.AppendCertsFromPEM(b)
		}
	}
	return clients, admins, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return b, err
}

// listenService makes one listener. What is not loopback demands a certificate of
// every peer; loopback takes peers without one, who may change nothing.
func (s *Server) listenService(ctx context.Context, addr string, h http.Handler, clients *x509.CertPool) (*service, error) {
	local, err := isLoopback(addr)
	if err != nil {
		return nil, err
	}
	if !local && clients == nil {
		return nil, fmt.Errorf("%s is not loopback, so that callers need certificates: name who issues them (--as-client-ca, --as-admin-ca)", addr)
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	v := &service{ln: newLimited(ln, s.conns, 0, nil, s.metrics.Shed), secure: clients != nil, http: &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 40 * time.Second,
		IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 128 << 10, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: asapi.Slots},
	}}
	attend(v.http)
	v.http.Protocols.SetHTTP1(true)
	if !v.secure {
		v.http.Protocols.SetUnencryptedHTTP2(true)
		s.cfg.Log.Warn("serving without TLS on loopback: every process of this machine may have evidence judged", "address", ln.Addr().String())
		return v, nil
	}
	v.http.Protocols.SetHTTP2(true)
	v.http.TLSConfig = &tls.Config{
		MinVersion: tls.VersionTLS12, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert,
		GetCertificate: s.present,
	}
	s.cfg.TLS.Apply(v.http.TLSConfig)
	if local {
		v.http.TLSConfig.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return v, nil
}

// isLoopback reports whether only this machine can reach an address.
func isLoopback(addr string) (bool, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false, err
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback(), nil
}

// serve answers until the server closes.
func (v *service) serve(served chan<- error) {
	if v == nil {
		return
	}
	if v.secure {
		served <- v.http.ServeTLS(v.ln, "", "")
		return
	}
	served <- v.http.Serve(v.ln)
}

// close lets requests in progress end, for as long as ctx allows.
func (v *service) close(ctx context.Context) error {
	if v == nil {
		return nil
	}
	err := v.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, v.http.Close())
	}
	v.ln.Close() // again after a shutdown, harmless; a server that never served has not closed it
	return err
}

// namespace gives the namespace that the services serve.
func (c *Services) namespace() string {
	if c.Namespace == "" {
		return trusteeapi.DefaultNamespace
	}
	return c.Namespace
}
