package restapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/aapb"
	"github.com/cofferproject/coffer/api/cdhpb"
)

// keyHolder plays the key holder: knows one resource.
type keyHolder struct{}

func (keyHolder) GetResource(_ context.Context, r *cdhpb.GetResourceRequest) (*cdhpb.GetResourceResponse, error) {
	switch r.GetResourcePath() {
	case "kbs:///default/secret/1":
		return &cdhpb.GetResourceResponse{Resource: []byte{0, 's', 0xff}}, nil
	case "kbs:///default/secret/1?version=7":
		return &cdhpb.GetResourceResponse{Resource: []byte("seventh"), CofferVersion: 7}, nil
	case "kbs:///default/secret/1?after=7&wait=3":
		return nil, status.Error(codes.OutOfRange, "there is no newer version")
	case "kbs+svid:///x509/web":
		return &cdhpb.GetResourceResponse{Resource: []byte(`{"x509_svid_key":"k"}`)}, nil
	case "kbs+svid:///jwt/web?audience=https%3A%2F%2Fdb&audience=queue":
		return &cdhpb.GetResourceResponse{Resource: []byte(`{"jwt_svid":"t"}`)}, nil
	case "kbs+svid:///x509/other":
		return nil, status.Error(codes.PermissionDenied, "denied by guest-keyholder: identity-not-listed")
	case "kbs:///default/secret/other":
		return nil, status.Error(codes.PermissionDenied, "denied by kbs: not-bound [record r-1]")
	}
	return nil, status.Error(codes.NotFound, "resource-not-found")
}

// attestationAgent records what it is told to by the domain.
type attestationAgent struct {
	aapb.AttestationAgentServiceService
}

func (attestationAgent) ExtendRuntimeMeasurement(_ context.Context, r *aapb.ExtendRuntimeMeasurementRequest) (*aapb.ExtendRuntimeMeasurementResponse, error) {
	switch r.GetDomain() + " " + r.GetOperation() + " " + r.GetContent() {
	case "example.org op {}":
		return &aapb.ExtendRuntimeMeasurementResponse{}, nil
	case "example.org op off":
		return &aapb.ExtendRuntimeMeasurementResponse{Result: aapb.RuntimeMeasurementResult_NOT_ENABLED}, nil
	case "example.org op none":
		return &aapb.ExtendRuntimeMeasurementResponse{Result: aapb.RuntimeMeasurementResult_NOT_SUPPORTED}, nil
	case "example.org op full":
		return nil, status.Error(codes.ResourceExhausted, "denied: event-log-full")
	}
	return nil, status.Error(codes.InvalidArgument, "denied: event-malformed")
}

func startKeyHolder(t *testing.T, path string) *ttrpc.Server {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	cdhpb.RegisterGetResourceServiceService(srv, keyHolder{})
	aapb.RegisterAttestationAgentServiceService(srv, attestationAgent{})
	go func() { _ = srv.Serve(context.Background(), l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return srv
}

func TestServedPaths(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "cdh.sock")
	kh := startKeyHolder(t, sock)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{Listener: l, CDHSocket: sock, Logger: slog.New(slog.DiscardHandler)})
	}()
	url := "http://" + l.Addr().String()
	check := func(method, path string, code int, body string) {
		t.Helper()
		rec := request(t, method, url+path)
		if rec.code != code || !strings.Contains(rec.body, body) {
			t.Errorf("%s %s: %d %q, want %d %q", method, path, rec.code, rec.body, code, body)
		}
	}
	check("GET", "/cdh/resource/default/secret/1", 200, "\x00s\xff")
	check("GET", "/cdh/resource/default/secret/1?x=y", 200, "\x00s\xff")
	check("GET", "/cdh/resource/default/secret/1?x=y&version=7", 200, "seventh")
	check("GET", "/cdh/resource/default/secret/1?after=7&wait=3", 304, "")
	check("GET", "/cdh/resource/default/secret/1?after=7&wait=300", 400, "at most 30 seconds")
	check("GET", "/cdh/resource/default/secret/2", 404, "resource-not-found")
	check("GET", "/cdh/resource/default/secret/other", 403, "record r-1")
	check("POST", "/cdh/resource/default/secret/1", 405, "")
	check("GET", "/cdh/resource/default/secret", 400, "2 path segments")
	check("GET", "/cdh/resource/default/secret%2f..%2fx/1", 400, "path segment")
	check("GET", "/aa/token?token_type=kbs", 404, "Attestation Feature Not Enabled")
	check("GET", "/", 404, "")
	check("GET", "/coffer/identity/x509/web", 200, `"k"`)
	check("GET", "/coffer/identity/jwt/web?audience=https://db&audience=queue", 200, `"t"`)
	check("GET", "/coffer/identity/x509/other", 403, "identity-not-listed")
	check("POST", "/coffer/identity/x509/web", 405, "")
	for _, bad := range []string{"x509/web?audience=a", "jwt/web", "jwt/web?audience=", "jwt/web?audience=a&x=1", "ssh/web", "x509/web/more", "x509/Web", "x509/..%2fweb", "x509/", "x509"} {
		check("GET", "/coffer/identity/"+bad, 400, "")
	}
	// The key holder starts anew.
	_ = kh.Close()
	startKeyHolder(t, sock)
	check("GET", "/cdh/resource/default/secret/1", 200, "\x00s\xff")
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("does not end with its context")
	}
}

func TestOnlyLoopback(t *testing.T) {
	h := newHandler(&hub{socket: "/nowhere"}, nil)
	for addr, code := range map[string]int{"10.0.2.2:1": 403, "[2001:db8::1]:1": 403, "[::ffff:127.0.0.1]:1": 503, "127.0.0.1:1": 503, "bad": 403} {
		r := httptest.NewRequest("GET", "/cdh/resource/a/b/c", nil)
		r.RemoteAddr = addr
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != code {
			t.Errorf("peer %s: %d, want %d", addr, w.Code, code)
		}
	}
}

// A process that shares the pod's network but is no workload's gets nothing,
// whichever family its socket has.
func TestRefusedUsers(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "cdh.sock")
	startKeyHolder(t, sock)
	for refused, code := range map[uint32]int{uint32(os.Geteuid()): 403, uint32(os.Geteuid()) + 1: 200} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_ = Run(t.Context(), Config{Listener: l, CDHSocket: sock, Refused: []uint32{refused}, Logger: slog.New(slog.DiscardHandler)})
		}()
		port := l.Addr().(*net.TCPAddr).Port
		for _, host := range []string{"127.0.0.1", "[::ffff:127.0.0.1]"} {
			if got := request(t, "GET", fmt.Sprintf("http://%s:%d/cdh/resource/default/secret/1", host, port)); got.code != code {
				t.Errorf("%s, user %d refused: %d, want %d", host, refused, got.code, code)
			}
		}
	}
}

func TestUserOfASocket(t *testing.T) {
	if bigEndian {
		t.Skip("the tables below are a little-endian machine's")
	}
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F46 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0 100 0 0 10 0
   1: 0100007F:9C40 0100007F:1F46 01 00000000:00000000 00:00000000 00000000  1000        0 102 1 0 20 4 30 10 -1
   2: 0100007F:9C41 0100007F:1F46 04 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1
   3: 0000000000000000FFFF00000100007F:9C42 0000000000000000FFFF00000100007F:1F46 01 00000000:00000000 00:00000000 00000000 2147547649        0 103 1 0 20 4 30 10 -1
   4: broken
`
	for addr, want := range map[string]int64{
		"127.0.0.1:40000": 1000, "127.0.0.1:40002": 1<<31 + 64001,
		"127.0.0.1:40001": -1, // closed: nobody's
		"127.0.0.1:8006":  -1, // listens
		"127.0.0.2:40000": -1, "127.0.0.1:40003": -1,
	} {
		uid, ok, err := findUser(strings.NewReader(table), netip.MustParseAddrPort(addr))
		if err != nil || ok != (want >= 0) || ok && int64(uid) != want {
			t.Errorf("%s: %d, %t, %v; want %d", addr, uid, ok, err, want)
		}
	}
}

func TestEvents(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "events.sock")
	kh := startKeyHolder(t, sock)
	h := newHandler(&hub{socket: sock}, newRecorder(sock))
	post := func(method, path, body string) (int, string) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	event := func(content string) string {
		return `{"domain":"example.org","operation":"op","content":"` + content + `"}`
	}
	for name, c := range map[string]struct {
		method, path, body string
		code               int
		answer             string
	}{
		"recorded":      {"POST", "/aa/aael", event("{}"), 200, `{"success":"true"}`},
		"not enabled":   {"POST", "/aa/aael", event("off"), 200, `"success":"false","message":`},
		"not supported": {"POST", "/aa/aael", event("none"), 200, `"success":"false","message":`},
		"full":          {"POST", "/aa/aael", event("full"), 429, "event-log-full"},
		"refused":       {"POST", "/aa/aael", event("bad"), 400, "event-malformed"},
		"no JSON":       {"POST", "/aa/aael", "x", 400, "JSON"},
		"no content":    {"POST", "/aa/aael", `{"domain":"a","operation":"b"}`, 400, "content"},
		"null":          {"POST", "/aa/aael", `{"domain":"a","operation":"b","content":null}`, 400, "content"},
		"one more":      {"POST", "/aa/aael", `{"domain":"example.org","operation":"op","content":"{}","register":1}`, 400, "member"},
		"too long":      {"POST", "/aa/aael", event(strings.Repeat("x", maxEvent)), 400, "too long"},
		"GET":           {"GET", "/aa/aael", "", 404, "Not Enabled"},
		"token":         {"GET", "/aa/token?token_type=kbs", "", 404, "Not Enabled"},
	} {
		if code, answer := post(c.method, c.path, c.body); code != c.code || !strings.Contains(answer, c.answer) {
			t.Errorf("%s: %d %q", name, code, answer)
		}
	}
	// The key holder starts anew: the event may have been recorded, so it is not
	// repeated; the next one goes through.
	_ = kh.Close()
	startKeyHolder(t, sock)
	if code, answer := post("POST", "/aa/aael", event("{}")); code != 503 && code != 200 {
		t.Errorf("on a dead connection: %d %q", code, answer)
	}
	if code, answer := post("POST", "/aa/aael", event("{}")); code != 200 {
		t.Errorf("after it: %d %q", code, answer)
	}
	h = newHandler(&hub{socket: sock}, newRecorder(""))
	if code, _ := post("POST", "/aa/aael", event("{}")); code != 404 {
		t.Errorf("without a socket: %d", code)
	}
}

func FuzzEvent(f *testing.F) {
	f.Add([]byte(`{"domain":"example.org","operation":"op","content":"{}"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := readEvent(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if f, err := readEvent(bytes.NewReader(again)); err == nil && *f != *e {
			t.Errorf("%q became %+v", b, f)
		}
	})
}

type answer struct {
	code int
	body string
}

func request(t *testing.T, method, url string) answer {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	rsp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer rsp.Body.Close()
	var b strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := rsp.Body.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return answer{rsp.StatusCode, b.String()}
		}
	}
}
