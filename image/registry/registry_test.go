package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/reference"
)

// fake is a registry with behaviour: it serves blobs and manifests by digest or
// tag and can be told to misbehave.
type fake struct {
	content map[string][]byte // by "kind/id"
	types   map[string]string
	user    string // "": no authentication
	bearer  bool
	noRange bool
	cut     atomic.Int64 // end the first answers of blobs after so many bytes
	cuts    atomic.Int64 // how many answers are cut
	hang    atomic.Bool  // blobs: send nothing after the header
	fail    atomic.Int64 // so many 503 first
	hits    atomic.Int64
	srv     *httptest.Server
	release chan struct{}
}

func newFake(t *testing.T, tls bool) *fake {
	t.Helper()
	f := &fake{content: map[string][]byte{}, types: map[string]string{}, release: make(chan struct{})}
	if tls {
		f.srv = httptest.NewTLSServer(f)
	} else {
		f.srv = httptest.NewServer(f)
	}
	t.Cleanup(func() { close(f.release); f.srv.CloseClientConnections(); f.srv.Close() })
	return f
}

func (f *fake) host() string { u, _ := url.Parse(f.srv.URL); return u.Host }

func (f *fake) put(kind, id, ctype string, b []byte) manifest.Descriptor {
	d := digest.FromBytes(b)
	f.content[kind+"/"+string(d)], f.types[kind+"/"+string(d)] = b, ctype
	if id != "" {
		f.content[kind+"/"+id], f.types[kind+"/"+id] = b, ctype
	}
	return manifest.Descriptor{MediaType: ctype, Digest: d, Size: int64(len(b))}
}

// image stores a one-layer image and gives its layer.
func (f *fake) image(t *testing.T, tag string, layer []byte) manifest.Descriptor {
	t.Helper()
	l := f.put("blobs", "", "application/vnd.oci.image.layer.v1.tar", layer)
	c := f.put("blobs", "", manifest.TypeOCIConfig, fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q]}}`, l.Digest))
	m, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifest.TypeOCIManifest, "config": c, "layers": []any{l}})
	if err != nil {
		t.Fatal(err)
	}
	md := f.put("manifests", tag+"-one", manifest.TypeOCIManifest, m)
	md.Platform = &manifest.Platform{OS: "linux", Architecture: "amd64"}
	x, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifest.TypeOCIIndex, "manifests": []any{md}})
	if err != nil {
		t.Fatal(err)
	}
	f.put("manifests", tag, manifest.TypeOCIIndex, x)
	return l
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.hits.Add(1)
	if r.URL.Path == "/token" {
		if u, p, _ := r.BasicAuth(); f.user != "" && (u != f.user || p != "secret") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"token":"t0k:%s"}`, r.URL.Query().Get("scope"))
		return
	}
	if f.user != "" || f.bearer {
		want := "Basic " + base64.StdEncoding.EncodeToString([]byte(f.user+":secret"))
		challenge := `Basic realm="x"`
		if f.bearer {
			want, challenge = "Bearer t0k:repository:team/app:pull", fmt.Sprintf(`Bearer realm="%s/token",service="svc"`, f.srv.URL)
		}
		if r.Header.Get("Authorization") != want {
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
	}
	if f.fail.Add(-1) >= 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	parts := strings.Split(r.URL.Path, "/")
	key := strings.Join(parts[len(parts)-2:], "/")
	b, ok := f.content[key]
	if !ok || !strings.HasPrefix(r.URL.Path, "/v2/team/app/") {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such\nthing"}]}`)
		return
	}
	w.Header().Set("Content-Type", f.types[key])
	if strings.HasPrefix(key, "blobs/") {
		f.blob(w, r, b)
		return
	}
	_, _ = w.Write(b)
}

func (f *fake) blob(w http.ResponseWriter, r *http.Request, b []byte) {
	var from int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && !f.noRange {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
		w.Header().Set("Content-Length", strconv.Itoa(len(b)-from))
		w.WriteHeader(http.StatusPartialContent)
		b = b[from:]
	} else {
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	}
	if f.hang.Load() && len(b) >= 1000 {
		_, _ = w.Write(b[:min(10, len(b))])
		w.(http.Flusher).Flush()
		<-f.release
		return
	}
	if n := f.cut.Load(); n > 0 && len(b) >= 1000 && f.cuts.Add(-1) >= 0 {
		_, _ = w.Write(b[:min(int(n), len(b))])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(b)
}

var quick = Timeouts{Dial: time.Second, Header: time.Second, Small: 2 * time.Second, Stall: 300 * time.Millisecond, Backoff: time.Millisecond}

func (f *fake) config() Config {
	return Config{Times: quick, Conf: Conf{Registries: []Registry{{Location: f.host(), Insecure: true}}}}
}

func parse(t *testing.T, s string) reference.Reference {
	t.Helper()
	r, err := reference.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var amd64 = manifest.Platform{OS: "linux", Architecture: "amd64"}

// pull resolves and reads the first layer.
func pull(t *testing.T, cfg Config, ref string) (*Resolved, []byte, error) {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		return nil, nil, err
	}
	rr := parse(t, ref)
	r, err := c.Resolve(t.Context(), rr, amd64)
	if err != nil {
		return nil, nil, err
	}
	b, err := c.Blob(t.Context(), rr, r.Manifest.Layers[0], "layer 0")
	if err != nil {
		return nil, nil, err
	}
	defer b.Close()
	layer, err := io.ReadAll(b)
	return r, layer, err
}

func TestPull(t *testing.T) {
	layer := bytes.Repeat([]byte("layer"), 100_000)
	for name, prep := range map[string]func(*fake, *Config){
		"plain":     func(*fake, *Config) {},
		"basic":     func(f *fake, c *Config) { f.user = "me"; c.Auth = auth(f.host(), "me:secret") },
		"bearer":    func(f *fake, c *Config) { f.user, f.bearer = "me", true; c.Auth = auth(f.host()+"/team", "me:secret") },
		"anonymous": func(f *fake, _ *Config) { f.bearer = true },
		"busy":      func(f *fake, _ *Config) { f.fail.Store(2) },
		"resumed":   func(f *fake, _ *Config) { f.cut.Store(100_000); f.cuts.Store(5) },
		"no ranges": func(f *fake, _ *Config) { f.cut.Store(300_000); f.cuts.Store(1); f.noRange = true },
		"proxy": func(f *fake, c *Config) {
			c.Proxy.HTTP = f.srv.URL
			c.Conf.Registries = []Registry{{Location: "nowhere.test", Insecure: true}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, false)
			f.image(t, "v1", layer)
			cfg := f.config()
			prep(f, &cfg)
			host := f.host()
			if name == "proxy" {
				host = "nowhere.test"
			}
			r, got, err := pull(t, cfg, host+"/team/app:v1")
			if err != nil || !bytes.Equal(got, layer) || r.IndexDigest == "" {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if r2, _, err := pull(t, cfg, host+"/team/app@"+string(r.ManifestDigest)); err != nil || r2.IndexDigest != "" || r2.ManifestDigest != r.ManifestDigest {
				t.Fatalf("by digest: %v", err)
			}
		})
	}
}

func auth(key, userpass string) []byte {
	return fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, key, base64.StdEncoding.EncodeToString([]byte(userpass)))
}

func TestPullFails(t *testing.T) {
	layer := bytes.Repeat([]byte("layer"), 100_000)
	for name, c := range map[string]struct {
		prep func(*fake, *Config)
		tag  string
		want string
	}{
		"not found":               {func(*fake, *Config) {}, "nope", "404 Not Found: MANIFEST_UNKNOWN: no such thing"},
		"wrong password":          {func(f *fake, c *Config) { f.user, f.bearer = "me", true; c.Auth = auth(f.host(), "me:wrong") }, "v1", "refuses the configured credentials"},
		"no credentials":          {func(f *fake, _ *Config) { f.user = "me" }, "v1", "none are configured"},
		"credentials of a prefix": {func(f *fake, c *Config) { f.user = "me"; c.Auth = auth(f.host()+"/tea", "me:secret") }, "v1", "none are configured"},
		"hangs":                   {func(f *fake, _ *Config) { f.hang.Store(true) }, "v1", "stopped after"},
		"cut for good":            {func(f *fake, _ *Config) { f.cut.Store(1); f.cuts.Store(1 << 40) }, "v1", "of 500000 bytes"},
		"down":                    {func(f *fake, _ *Config) { f.fail.Store(1 << 40) }, "v1", "503 Service Unavailable (after 3 tries)"},
		"http only":               {func(f *fake, c *Config) { c.Conf = Conf{} }, "v1", "insecure = true"},
		"blocked":                 {func(f *fake, c *Config) { c.Conf.Registries[0].Blocked = true }, "v1", "blocks"},
		"wrong bytes":             {func(f *fake, _ *Config) { f.corrupt("blobs/", layer) }, "v1", "has digest"},
		"shorter":                 {func(f *fake, _ *Config) { f.shorten("blobs/", layer) }, "v1", "its manifest declares 500000"},
		"manifest replaced":       {func(f *fake, _ *Config) { f.corruptManifest() }, "v1", "has digest"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, false)
			f.image(t, "v1", layer)
			cfg := f.config()
			c.prep(f, &cfg)
			start := time.Now()
			_, _, err := pull(t, cfg, f.host()+"/team/app:"+c.tag)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), f.host()) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if strings.Contains(fmt.Sprint(err), "secret") || strings.Contains(fmt.Sprint(err), "\n") && name == "not found" {
				t.Errorf("leaks or forges: %v", err)
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

func (f *fake) corrupt(prefix string, was []byte) {
	for k, v := range f.content {
		if strings.HasPrefix(k, prefix) && bytes.Equal(v, was) {
			v = bytes.Clone(v)
			v[len(v)/2] ^= 1
			f.content[k] = v
		}
	}
}

func (f *fake) shorten(prefix string, was []byte) {
	for k, v := range f.content {
		if strings.HasPrefix(k, prefix) && bytes.Equal(v, was) {
			f.content[k] = v[:len(v)-1]
		}
	}
}

func (f *fake) corruptManifest() {
	for k, v := range f.content {
		if strings.HasPrefix(k, "manifests/sha256:") {
			f.content[k] = append([]byte(" "), v...)
		}
	}
}

func TestMirrors(t *testing.T) {
	layer := bytes.Repeat([]byte("layer"), 100_000)
	good, bad := newFake(t, false), newFake(t, false)
	good.image(t, "v1", layer)
	bad.image(t, "v1", layer)
	bad.cut.Store(200_000)
	bad.cuts.Store(1 << 40)
	bad.noRange = true
	cfg := Config{Times: quick, Auth: auth("origin.test", "me:secret"), Conf: Conf{Registries: []Registry{{
		Prefix: "origin.test", Mirrors: []Mirror{{Location: "127.0.0.1:1", Insecure: true}, {Location: bad.host(), Insecure: true}, {Location: good.host(), Insecure: true}}}}}}
	// The first mirror is down, the second breaks in mid-layer, the third goes on
	// from there.
	_, got, err := pull(t, cfg, "origin.test/team/app:v1")
	if err != nil || !bytes.Equal(got, layer) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	cfg.SkipHosts = []string{"127.0.0.1:1", bad.host(), good.host(), "origin.test"}
	if _, _, err := pull(t, cfg, "origin.test/team/app:v1"); err == nil || !strings.Contains(err.Error(), "no place left") {
		t.Error(err)
	}
}

func TestTLS(t *testing.T) {
	f := newFake(t, true)
	f.image(t, "v1", []byte("layer"))
	f.bearer = true
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.srv.Certificate().Raw}))
	if _, _, err := pull(t, Config{Times: quick, ExtraRoots: []string{ca}}, f.host()+"/team/app:v1"); err != nil {
		t.Error(err)
	}
	if _, _, err := pull(t, Config{Times: quick}, f.host()+"/team/app:v1"); err == nil || !strings.Contains(err.Error(), "extra_root_certificates") {
		t.Errorf("unknown CA: %v", err)
	}
	// The certificate is for 127.0.0.1 and example.com, not for localhost.
	_, port, _ := net.SplitHostPort(f.host())
	if _, _, err := pull(t, Config{Times: quick, ExtraRoots: []string{ca}}, "localhost:"+port+"/team/app:v1"); err == nil || !strings.Contains(err.Error(), "not localhost") {
		t.Errorf("other name: %v", err)
	}
	// A guest before its first signed time: the floor lies before the certificate.
	early := func() time.Time { return time.Unix(-1_000_000_000, 0) }
	if _, _, err := pull(t, Config{Times: quick, ExtraRoots: []string{ca}, Now: early}, f.host()+"/team/app:v1"); err == nil {
		t.Error("a certificate from the future was accepted")
	}
	if _, _, err := pull(t, Config{Times: quick, ExtraRoots: []string{ca}, Now: early, OnlyFloor: true}, f.host()+"/team/app:v1"); err != nil {
		t.Error(err)
	}
	if _, _, err := pull(t, Config{Times: quick, ExtraRoots: []string{ca}, Now: early, OnlyFloor: true}, "localhost:"+port+"/team/app:v1"); err == nil || !strings.Contains(err.Error(), "not localhost") {
		t.Errorf("other name without time: %v", err)
	}
	if _, _, err := pull(t, Config{Times: quick, Now: early, OnlyFloor: true}, f.host()+"/team/app:v1"); err == nil || !strings.Contains(err.Error(), "extra_root_certificates") {
		t.Errorf("unknown CA without time: %v", err)
	}
	late := func() time.Time { return time.Now().Add(200 * 365 * 24 * time.Hour) }
	if _, _, err := pull(t, Config{Times: quick, ExtraRoots: []string{ca}, Now: late}, f.host()+"/team/app:v1"); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired: %v", err)
	}
	if _, _, err := pull(t, Config{Times: quick, ExtraRoots: []string{ca}, Now: late, OnlyFloor: true}, f.host()+"/team/app:v1"); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired before the floor: %v", err)
	}
}

func TestRedirects(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("credentials were sent to another place")
		}
		_, _ = io.WriteString(w, "layer")
	}))
	defer plain.Close()
	redirect := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, plain.URL+"/x", http.StatusTemporaryRedirect)
	}
	d := manifest.Descriptor{Digest: digest.FromBytes([]byte("layer")), Size: 5}
	from := httptest.NewServer(http.HandlerFunc(redirect))
	defer from.Close()
	host := strings.TrimPrefix(from.URL, "http://")
	c, err := New(Config{Times: quick, Auth: auth(host, "me:secret"), Conf: Conf{Registries: []Registry{{Location: host, Insecure: true}}}})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := c.Small(t.Context(), parse(t, host+"/a"), d, "blob"); err != nil || string(b) != "layer" {
		t.Error(err)
	}
	tls := httptest.NewTLSServer(http.HandlerFunc(redirect))
	defer tls.Close()
	host = strings.TrimPrefix(tls.URL, "https://")
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw}))
	if c, err = New(Config{Times: quick, Auth: auth(host, "me:secret"), ExtraRoots: []string{ca}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Small(t.Context(), parse(t, host+"/a"), d, "blob"); err == nil || !strings.Contains(err.Error(), "from HTTPS to http") {
		t.Error(err)
	}
}

func TestCancel(t *testing.T) {
	f := newFake(t, false)
	l := f.image(t, "v1", bytes.Repeat([]byte("x"), 1000))
	f.hang.Store(true)
	cfg := f.config()
	cfg.Times.Stall = time.Minute
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("the pod was stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	b, err := c.Blob(ctx, parse(t, f.host()+"/team/app"), l, "layer 0")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := io.ReadAll(b); !errors.Is(err, why) {
		t.Error(err)
	}
}

// A registry that sends a little now and then must not keep a pull alive.
func TestTrickle(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, "x"); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	}))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	cfg := Config{Times: quick, Conf: Conf{Registries: []Registry{{Location: host, Insecure: true}}}}
	cfg.Times.Attempts = 1
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Blob(t.Context(), parse(t, host+"/a"), manifest.Descriptor{Digest: digest.FromBytes(nil), Size: 1_000_000}, "layer 0")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	start := time.Now()
	_, err = io.ReadAll(b)
	var st *StallError
	if !errors.As(err, &st) || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}
