// Package plugin asks external plugins over the published gRPC interface (api/pluginpb;
// shared facts: trustee section 3.6).
//
// Invariants: a call ends within its backend's time, whatever the plugin does; messages
// are bounded; at most maxCalls wait for one backend; nothing is asked of a plugin at
// the start, and one that is away fails alone what is asked of it.
//
// Trust zone: trustee. A plugin is trusted with what it gives, and with what guests and
// administrators send to it, and with nothing else: it gets no token and no secret.
package plugin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/cofferproject/coffer/api/pluginpb"
)

const (
	// MaxBody bounds a request's body and an answer's, in bytes.
	MaxBody        = 2 << 20
	maxMessage     = MaxBody + 64<<10
	maxCalls       = 64
	defaultTimeout = 10 * time.Second
	longest        = 60 * time.Second
	maxDetail      = 300
)

// Backend is one plugin.
type Backend struct {
	Name string
	// Endpoint is https://host:port, http://host:port on loopback, or unix:///path.
	Endpoint string
	CAFile   string // who vouches for it (PEM); "": the system's
	// CertFile and KeyFile are shown to it.
	CertFile, KeyFile string
	Timeout           time.Duration // of one request; 0: 10 s
}

// Request is one request of a guest or an administrator.
type Request struct {
	Method string
	Path   []string // after the plugin's name
	Query  map[string]string
	Body   []byte
}

// ErrBusy says that too many requests wait for the plugin.
var ErrBusy = errors.New("too many requests wait for the plugin")

// Host has the plugins of a trustee. A nil Host has none.
type Host struct {
	backends map[string]*backend
}

type backend struct {
	conn    *grpc.ClientConn
	timeout time.Duration
	slots   chan struct{}
}

var name = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// New makes a Host. It connects to nothing yet.
func New(all []Backend) (*Host, error) {
	h := &Host{backends: map[string]*backend{}}
	for _, b := range all {
		one, err := open(&b)
		if err == nil && h.backends[b.Name] != nil {
			err = errors.New("there is one of that name")
		}
		if err != nil {
			h.Close()
			return nil, fmt.Errorf("plugin %.70q: %w", b.Name, err)
		}
		h.backends[b.Name] = one
	}
	return h, nil
}

func open(b *Backend) (*backend, error) {
	if !name.MatchString(b.Name) {
		return nil, errors.New("a name is of small letters, digits, - and _, at most 63 of them")
	}
	if b.Timeout < 0 || b.Timeout > longest {
		return nil, fmt.Errorf("a timeout of %v, at most %v", b.Timeout, longest)
	}
	target, creds, err := b.transport()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithMaxHeaderListSize(16<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, err
	}
	t := b.Timeout
	if t == 0 {
		t = defaultTimeout
	}
	return &backend{conn: conn, timeout: t, slots: make(chan struct{}, maxCalls)}, nil
}

func (b *Backend) transport() (target string, creds credentials.TransportCredentials, err error) {
	u, err := url.Parse(b.Endpoint)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", nil, errors.New("the endpoint is no URL such as https://host:port")
	}
	plain := func() error {
		if b.CAFile != "" || b.CertFile != "" || b.KeyFile != "" {
			return errors.New("certificates are for https alone")
		}
		return nil
	}
	switch {
	case u.Scheme == "unix" && u.Host == "" && filepath.IsAbs(u.Path):
		return "unix:" + u.Path, insecure.NewCredentials(), plain()
	case u.Port() == "" || u.Path != "":
		return "", nil, errors.New("the endpoint is https://host:port, http://127.0.0.1:port or unix:///path")
	case u.Scheme == "http":
		a, err := netip.ParseAddr(u.Hostname())
		if err != nil || !a.IsLoopback() {
			return "", nil, errors.New("http is for this machine alone (127.0.0.1, ::1): use https")
		}
		return "passthrough:///" + u.Host, insecure.NewCredentials(), plain()
	case u.Scheme == "https":
		c, err := b.tls(u.Hostname())
		return "dns:///" + u.Host, credentials.NewTLS(c), err
	}
	return "", nil, fmt.Errorf("the endpoint's scheme %.20q is none of https, http, unix", u.Scheme)
}

func (b *Backend) tls(host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if b.CAFile != "" {
		pem, err := os.ReadFile(b.CAFile)
		if err != nil {
			return nil, err
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM", b.CAFile)
		}
	}
	if (b.CertFile == "") != (b.KeyFile == "") {
		return nil, errors.New("a certificate and its key go together")
	}
	if b.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(b.CertFile, b.KeyFile)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// Has reports whether there is a plugin of a name.
func (h *Host) Has(name string) bool { return h != nil && h.backends[name] != nil }

// Close ends all connections.
func (h *Host) Close() {
	if h == nil {
		return
	}
	for _, b := range h.backends {
		_ = b.conn.Close()
	}
}

// within runs one exchange with a plugin of a name, which there is.
func (h *Host) within(ctx context.Context, name string, fn func(context.Context, pluginpb.KbsPluginClient) error) error {
	b := h.backends[name]
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	default:
		return ErrBusy
	}
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	return fn(ctx, pluginpb.NewKbsPluginClient(b.conn))
}

// Needs asks whether a request is an administrator's, and whether its answer is to be
// encrypted.
func (h *Host) Needs(ctx context.Context, name string, r *Request) (admin, encrypted bool, err error) {
	err = h.within(ctx, name, func(ctx context.Context, c pluginpb.KbsPluginClient) error {
		a, err := c.ValidateAuth(ctx, &pluginpb.ValidateAuthRequest{Body: r.Body, Query: r.Query, Path: r.Path, Method: r.Method})
		if err != nil {
			return err
		}
		e, err := c.NeedsEncryption(ctx, &pluginpb.NeedsEncryptionRequest{Body: r.Body, Query: r.Query, Path: r.Path, Method: r.Method})
		admin, encrypted = a.GetRequiresAdminAuth(), e.GetRequiresPayloadEncryption()
		return err
	})
	return admin, encrypted, err
}

// Refused is an answer whose status is no success.
type Refused struct {
	Status int32
	Detail string
}

// Error implements error.
func (r *Refused) Error() string { return fmt.Sprintf("status %d: %q", r.Status, r.Detail) }

// Handle gives a plugin's answer.
func (h *Host) Handle(ctx context.Context, name string, r *Request) (body []byte, err error) {
	err = h.within(ctx, name, func(ctx context.Context, c pluginpb.KbsPluginClient) error {
		a, err := c.Handle(ctx, &pluginpb.PluginRequest{Body: r.Body, Query: r.Query, Path: r.Path, Method: r.Method})
		if err != nil {
			return err
		}
		if s := a.GetStatusCode(); s < 200 || s > 299 {
			d := a.GetBody()
			return &Refused{Status: s, Detail: string(d[:min(len(d), maxDetail)])}
		}
		if len(a.GetBody()) > MaxBody {
			return fmt.Errorf("an answer of more than %d bytes", MaxBody)
		}
		body = a.GetBody()
		return nil
	})
	return body, err
}
