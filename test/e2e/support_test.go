package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/trusteeclient"
	"github.com/cofferproject/coffer/test/child"
)

// full leaves out what does not fit into CI's time.
func full(t *testing.T) {
	t.Helper()
	if os.Getenv("COFFER_E2E_FULL") != "1" {
		t.Skip("boots a VM beyond CI's time: COFFER_E2E_FULL=1 (make e2e-full) runs it")
	}
}

// newHome makes a folder for one user's state and runs. t.TempDir's names are too
// long for the sockets in it.
func (e *env) newHome(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp(e.dir, "h")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(d) })
	return d
}

// write puts a file into home and gives its path.
func write(t *testing.T, home, name, text string) string {
	t.Helper()
	p := filepath.Join(home, name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// trusteeProc is a trustee that the test runs, as an owner with one of his own
// would; coffer commands of the same home use it.
type trusteeProc struct {
	t      *testing.T
	cmd    *exec.Cmd
	state  string
	config trusteeapi.ClientConfig
	client *trusteeclient.Client
	sim    *trusteeclient.Namespaced
}

// startTrustee serves the trustee of a home. listen "" takes any port.
func (e *env) startTrustee(t *testing.T, home, listen string) *trusteeProc {
	t.Helper()
	p := &trusteeProc{t: t, state: filepath.Join(home, "state", "trustee")}
	if err := os.MkdirAll(p.state, 0o700); err != nil {
		t.Fatal(err)
	}
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	p.cmd = exec.Command(filepath.Join(e.bin, "coffer-trustee"), "serve", "--state", p.state, "--listen", listen, "--simulated-namespace", "sim")
	if host, _, err := net.SplitHostPort(listen); err == nil {
		p.cmd.Args = append(p.cmd.Args, "--san", host)
	}
	var log bytes.Buffer
	p.cmd.Stderr = &log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(p.cmd, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("trustee's log:\n%s", log.String())
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &p.config)
	}
	if err == nil {
		p.client, err = trusteeclient.DialConfig(t.Context(), &p.config)
	}
	if err != nil {
		t.Fatalf("starting the trustee: %v\n%s", err, log.String())
	}
	p.sim = p.client.Namespace("sim")
	return p
}

// kill ends the trustee as a power cut does.
func (p *trusteeProc) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// host gives the address it listens on.
func (p *trusteeProc) host() string {
	u, err := url.Parse(p.config.URL)
	if err != nil {
		p.t.Fatal(err)
	}
	return u.Host
}

// flags name the trustee on a command line.
func (p *trusteeProc) flags() []string {
	ca := write(p.t, p.state, "ca-for-flags.pem", p.config.CAPEM)
	return []string{"--trustee", p.config.URL, "--trustee-ca", ca, "--admin-key", p.config.AdminKeyPath}
}

// audited is what the tests read of an audit record.
type audited struct {
	Kind     string `json:"kind"`
	Resource string `json:"resource"`
	Reason   string `json:"reason"`
	Initdata string `json:"initdata"`
}

// audit gives the audit records of a kind: "attest" and "release" are written
// before the token or the secret leaves.
func (p *trusteeProc) audit(kind string) []audited {
	p.t.Helper()
	var out []audited
	lines, err := p.client.Audit(context.Background(), 0, 1000)
	if err != nil {
		p.t.Fatalf("reading the audit log: %v", err)
	}
	for _, l := range lines {
		var a audited
		if err := json.Unmarshal([]byte(l), &a); err != nil {
			p.t.Fatalf("audit record %q: %v", l, err)
		}
		if a.Kind == kind {
			out = append(out, a)
		}
	}
	return out
}

// releases counts the secrets that have left the trustee.
func (p *trusteeProc) releases() int {
	p.t.Helper()
	return len(p.audit("release"))
}

// seal seals a pod and gives the file of the sealed one and the seal's id.
func (e *env) seal(t *testing.T, home, manifest string, args ...string) (file, id string) {
	t.Helper()
	in := write(t, home, "pod.yaml", manifest)
	file = filepath.Join(home, "sealed.yaml")
	args = append([]string{"seal", "--tee", "tpm-sim", "--registries", e.registries, "--output", "json", "--out", file, in}, args...)
	out, errout, code := e.coffer(t, home, args...)
	var r struct {
		Seal string `json:"seal"`
	}
	if code != 0 || json.Unmarshal([]byte(out), &r) != nil || r.Seal == "" {
		t.Fatalf("coffer seal: exit code %d\n%s%s", code, out, errout)
	}
	return file, r.Seal
}

// must runs a coffer command that has to succeed.
func (e *env) must(t *testing.T, home string, args ...string) string {
	t.Helper()
	out, errout, code := e.coffer(t, home, args...)
	if code != 0 {
		t.Fatalf("coffer %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errout)
	}
	return out
}

// encrypted gives an encrypted copy of the demo image and the file of its key,
// which belongs into the trustee under keyName.
func (e *env) encrypted(t *testing.T, home, name string) (image, keyFile string) {
	t.Helper()
	// Of a name of its own: tests that run beside each other have keys of their own.
	image = "registry.example/coffer/" + name + "-" + filepath.Base(home) + ":encrypted"
	keyFile = filepath.Join(home, name+".key")
	e.must(t, home, "image", "encrypt", "registry.example/coffer/demo:plain", image,
		"--key-id", "kbs:///"+keyName, "--key-file", keyFile, "--registries", e.registries)
	return image, keyFile
}

const keyName = "default/image-key/demo"

// faultyRegistry stands before the mirror; fault answers itself where it likes
// and says so.
func (e *env) faultyRegistry(t *testing.T, fault func(http.ResponseWriter, *http.Request) bool) (registries string) {
	t.Helper()
	to, err := url.Parse("http://" + e.mirror)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !fault(w, r) {
			proxy.ServeHTTP(w, r)
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	b, err := os.ReadFile(e.registries)
	if err != nil {
		t.Fatal(err)
	}
	d, err := os.MkdirTemp(e.dir, "r")
	if err != nil {
		t.Fatal(err)
	}
	return write(t, d, "registries.conf", strings.ReplaceAll(string(b), e.mirror, l.Addr().String()))
}

// Faults of a registry. Blobs of layers are told from configs by their size.

func isManifest(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }
func isBlob(r *http.Request) bool     { return strings.Contains(r.URL.Path, "/blobs/") }

// original gives what the mirror itself answers.
func (e *env) original(r *http.Request) (int, http.Header, []byte) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+e.mirror+r.URL.Path, nil)
	if err != nil {
		return http.StatusBadGateway, nil, nil
	}
	req.Header = r.Header.Clone()
	req.Header.Del("Range")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return http.StatusBadGateway, nil, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return http.StatusBadGateway, nil, nil
	}
	return resp.StatusCode, resp.Header, b
}

// changed answers with one byte changed.
func (e *env) changed(w http.ResponseWriter, r *http.Request) bool {
	code, h, b := e.original(r)
	if len(b) > 0 {
		b[len(b)/2] ^= 1
	}
	w.Header().Set("Content-Type", h.Get("Content-Type"))
	w.WriteHeader(code)
	_, _ = w.Write(b)
	return true
}

// cut breaks the connection in the middle of the answer.
func (e *env) cut(w http.ResponseWriter, r *http.Request) bool {
	code, h, b := e.original(r)
	w.Header().Set("Content-Type", h.Get("Content-Type"))
	w.Header().Set("Content-Length", h.Get("Content-Length"))
	w.WriteHeader(code)
	_, _ = w.Write(b[:len(b)/2])
	panic(http.ErrAbortHandler)
}

// hang never answers.
func hang(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}
