package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/cofferproject/coffer/api/pluginpb"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/plugin"
)

// echo is a plugin: POST is an administrator's, "plain" is not encrypted, and some paths
// misbehave.
type echo struct {
	pluginpb.UnimplementedKbsPluginServer
	handled atomic.Int64
	last    atomic.Pointer[pluginpb.PluginRequest]
}

func (e *echo) Handle(ctx context.Context, r *pluginpb.PluginRequest) (*pluginpb.PluginResponse, error) {
	e.handled.Add(1)
	e.last.Store(r)
	switch strings.Join(r.GetPath(), "/") {
	case "hang":
		<-ctx.Done()
		return nil, ctx.Err()
	case "huge":
		return &pluginpb.PluginResponse{StatusCode: 200, Body: make([]byte, plugin.MaxBody+1)}, nil
	case "refuse":
		return &pluginpb.PluginResponse{StatusCode: 418, Body: []byte("no tea here")}, nil
	}
	return &pluginpb.PluginResponse{StatusCode: 200, Body: fmt.Appendf(nil, "%s %s %v %s", r.GetMethod(), strings.Join(r.GetPath(), "/"), r.GetQuery(), r.GetBody())}, nil
}

func (e *echo) ValidateAuth(_ context.Context, r *pluginpb.ValidateAuthRequest) (*pluginpb.ValidateAuthResponse, error) {
	return &pluginpb.ValidateAuthResponse{RequiresAdminAuth: r.GetMethod() == "POST"}, nil
}

func (e *echo) NeedsEncryption(_ context.Context, r *pluginpb.NeedsEncryptionRequest) (*pluginpb.NeedsEncryptionResponse, error) {
	return &pluginpb.NeedsEncryptionResponse{RequiresPayloadEncryption: r.GetPath()[0] != "plain"}, nil
}

func serveEcho(t *testing.T, network, address string, o ...grpc.ServerOption) (*echo, net.Addr) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	e, s := &echo{}, grpc.NewServer(append(o, grpc.MaxRecvMsgSize(8<<20))...)
	pluginpb.RegisterKbsPluginServer(s, e)
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(s.Stop)
	return e, ln.Addr()
}

// TestExternalPlugin has a plugin answer a bound guest and an administrator, and nobody
// else, whatever it does itself.
func TestExternalPlugin(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	e, _ := serveEcho(t, "unix", socket)
	w := newWorld(t, func(c *Config) {
		c.Plugins = []plugin.Backend{
			{Name: "echo", Endpoint: "unix://" + socket, Timeout: 2 * time.Second}, {Name: "away", Endpoint: "http://127.0.0.1:1", Timeout: 2 * time.Second},
		}
	})
	doc := document(t, "pod a")
	c, stranger := w.client(""), w.client("")
	c.handshake(doc)
	stranger.handshake(document(t, "pod b"))
	ask := func(c *rcar, path string) *answer { return c.do("GET", "/external/"+path, nil) }

	denied(t, w, ask(c, "echo/a/b"), 403, "secret-unbound")
	bind := trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(doc)}}
	w.admin.must("POST", "/namespaces/default/bindings/external/echo/plugin", bind)
	w.admin.must("POST", "/namespaces/default/bindings/external/away/plugin", bind)
	denied(t, w, ask(stranger, "echo/a/b"), 403, "secret-unbound")
	if a := w.client("").do("GET", "/external/echo/a/b", nil); a.status != 401 {
		t.Errorf("without a token: %d %s", a.status, a.body)
	}
	if n := e.handled.Load(); n != 0 {
		t.Fatalf("the plugin was asked %d times for nobody", n)
	}
	a := ask(c, "echo/a/b?x=1")
	if a.status != 200 || string(c.open(a.body)) != "GET a/b map[x:1] " {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if r := w.audit("release"); r[len(r)-1]["resource"] != "external/echo/plugin" || r[len(r)-1]["initdata"] != "sha256:"+digestOf(doc) {
		t.Errorf("record: %v", r[len(r)-1])
	}
	if a := ask(c, "echo/plain"); a.status != 200 || !strings.HasPrefix(string(a.body), "GET plain") {
		t.Errorf("plain: %d %s", a.status, a.body)
	}
	if a := ask(c, "nothing/a"); a.status != 404 {
		t.Errorf("a plugin that is not there: %d %s", a.status, a.body)
	}
	// A policy narrows, and sees what is asked.
	w.admin.resourcePolicy("p", "external/echo", `allow if { data.plugin == "external"; data["resource-path"] == ["echo", "a", "b"]; data.query.x == "1" }`, "GET")
	if a := ask(c, "echo/a/b?x=1"); a.status != 200 {
		t.Errorf("allowed by a policy: %d %s", a.status, a.body)
	}
	asked := e.handled.Load()
	denied(t, w, ask(c, "echo/a/b?x=2"), 403, "resource-policy-denied")
	denied(t, w, ask(c, "echo/a/c?x=1"), 403, "resource-policy-denied")
	if e.handled.Load() != asked {
		t.Error("the plugin was asked against a policy")
	}
	w.admin.resourcePolicy("p", "external/echo", "allow := true", "GET")

	// Whatever the plugin does is a typed refusal, and is recorded as undelivered.
	for path, want := range map[string]string{"echo/hang": "deadline", "echo/huge": "larger than max", "echo/refuse": "no tea here", "away/a": "refused"} {
		begun := time.Now()
		a := ask(c, path)
		denied(t, w, a, 502, "plugin-failed")
		if d := w.admin.record(a.err.Record).Denial; !strings.Contains(strings.ToLower(d.Measured), want) && path != "echo/huge" {
			t.Errorf("%s: %+v", path, d)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("%s took %v", path, took)
		}
	}
	if c.get(secretName).status != 403 { // all else goes on
		t.Error("another request after a plugin's failure")
	}
	// An administrator's requests.
	post := func(auth string) *answer {
		return w.client("").do("POST", "/external/echo/a", []byte("key"), "Authorization", auth)
	}
	if a := post("Bearer " + w.admin.token("POST", "/kbs/v0/external/echo/a")); a.status != 200 || string(a.body) != "POST a map[] key" {
		t.Errorf("an administrator: %d %s", a.status, a.body)
	}
	before := e.handled.Load()
	if a := post("Bearer " + c.token); a.status != 401 {
		t.Errorf("a guest as an administrator: %d %s", a.status, a.body)
	}
	if a := c.do("POST", "/external/echo/a", []byte("key")); a.status != 401 {
		t.Errorf("a guest's session as an administrator: %d %s", a.status, a.body)
	}
	if e.handled.Load() != before {
		t.Error("the plugin was asked for nobody")
	}
	if l := w.audit("admin"); !strings.Contains(l[len(l)-1]["action"].(string), "POST /kbs/v0/external/echo/a") {
		t.Errorf("record: %v", l[len(l)-1])
	}
	// No evidence and no token reaches the plugin.
	if r := e.last.Load(); strings.Contains(r.String(), c.token) {
		t.Error("the plugin got the token")
	}
}

// TestPluginOverTLS asks a plugin that wants a certificate, and one that is not the
// one that was named.
func TestPluginOverTLS(t *testing.T) {
	ca := newAuthority(t, "ca")
	pair := ca.issueFor(t, "127.0.0.1")
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	e, at := serveEcho(t, "tcp", "127.0.0.1:0", grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12})))
	client := ca.issue(x509.ExtKeyUsageClientAuth)
	keyDER, err := x509.MarshalPKCS8PrivateKey(client.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good := plugin.Backend{Endpoint: "https://" + at.String(), CAFile: ca.file, CertFile: file("cert", pemOf("CERTIFICATE", client.Certificate[0])), KeyFile: file("key", pemOf("PRIVATE KEY", keyDER))}
	other := good
	other.CAFile = newAuthority(t, "other").file
	bare := good
	bare.CertFile, bare.KeyFile = "", ""
	good.Name, other.Name, bare.Name = "good", "other", "bare"
	h, err := plugin.New([]plugin.Backend{good, other, bare})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	r := &plugin.Request{Method: "GET", Path: []string{"a"}}
	if b, err := h.Handle(t.Context(), "good", r); err != nil || string(b) != "GET a map[] " {
		t.Errorf("%q, %v", b, err)
	}
	n := e.handled.Load()
	for _, name := range []string{"other", "bare"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if b, err := h.Handle(ctx, name, r); err == nil {
			t.Errorf("%s: %q", name, b)
		}
		cancel()
	}
	if e.handled.Load() != n {
		t.Error("a plugin answered whom it does not know")
	}
	for what, b := range map[string]plugin.Backend{
		"no name": {Endpoint: "unix:///s"}, "a name with a slash": {Name: "a/b", Endpoint: "unix:///s"}, "plain on the network": {Name: "a", Endpoint: "http://192.0.2.1:1"},
		"plain by name": {Name: "a", Endpoint: "http://localhost:1"}, "no port": {Name: "a", Endpoint: "https://host"}, "a path": {Name: "a", Endpoint: "https://host:1/x"},
		"a password": {Name: "a", Endpoint: "https://u:p@host:1"}, "another scheme": {Name: "a", Endpoint: "ftp://host:1"}, "a relative socket": {Name: "a", Endpoint: "unix://s"},
		"certificates without TLS": {Name: "a", Endpoint: "unix:///s", CAFile: "x"}, "half a certificate": {Name: "a", Endpoint: "https://host:1", CertFile: good.CertFile},
		"a timeout without end": {Name: "a", Endpoint: "unix:///s", Timeout: time.Hour}, "no CA": {Name: "a", Endpoint: "https://host:1", CAFile: filepath.Join(dir, "none")},
	} {
		if h, err := plugin.New([]plugin.Backend{b}); err == nil {
			h.Close()
			t.Errorf("%s is taken", what)
		}
	}
	if _, err := plugin.New([]plugin.Backend{good, good}); err == nil {
		t.Error("two of one name")
	}
}

// TestPluginIsBusy has more requests wait for a plugin than may.
func TestPluginIsBusy(t *testing.T) {
	_, at := serveEcho(t, "tcp", "127.0.0.1:0")
	h, err := plugin.New([]plugin.Backend{{Name: "echo", Endpoint: "http://" + at.String(), Timeout: 2 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var busy, late atomic.Int64
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			_, err := h.Handle(t.Context(), "echo", &plugin.Request{Method: "GET", Path: []string{"hang"}})
			switch {
			case err == plugin.ErrBusy: //nolint:errorlint // it is given as it is
				busy.Add(1)
			case err != nil:
				late.Add(1)
			}
		})
	}
	wg.Wait()
	if busy.Load() != 36 || late.Load() != 64 {
		t.Errorf("%d refused, %d late", busy.Load(), late.Load())
	}
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
