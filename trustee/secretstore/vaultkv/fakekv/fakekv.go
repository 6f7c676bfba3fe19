// Package fakekv behaves like a Vault server with key-value engines of both versions,
// over TLS, as far as its published HTTP API says: tokens with leases on an injected
// clock, AppRole and Kubernetes logins, policies by path, namespaces, versions that are
// deleted and destroyed, and the ways in which such a server fails.
//
// Trust zone: tests only.
package fakekv

import (
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Version is one version of a secret of engine 2.
type Version struct {
	Data      map[string]any
	Deleted   time.Time
	Destroyed bool
}

type token struct {
	until     time.Time // zero: without end
	last      time.Time // when renewing ends
	renewable bool
}

// Server is one Vault: engine 1 at /kv1, engine 2 at /kv2.
type Server struct {
	*httptest.Server
	Namespace string
	Lease     time.Duration // of what a login gives
	MaxTTL    time.Duration
	RoleID    string
	SecretID  string
	// SecretIDUses is how often the secret id is good; -1: always.
	SecretIDUses int
	Role, JWT    string // of Kubernetes

	mu     sync.Mutex
	now    func() time.Time
	tokens map[string]*token
	one    map[string]map[string]any
	two    map[string][]*Version
	closed map[string]bool // paths that the policy denies
	fault  func(http.ResponseWriter, *http.Request) bool
	calls  map[string]int
}

// Start starts one; now is its clock.
func Start(t testing.TB, now func() time.Time) *Server {
	t.Helper()
	s := &Server{
		now: now, Lease: time.Hour, MaxTTL: 24 * time.Hour, RoleID: "role-" + rand.Text(), SecretID: "secret-" + rand.Text(), SecretIDUses: -1, Role: "coffer", JWT: "jwt." + rand.Text() + ".x",
		tokens: map[string]*token{}, one: map[string]map[string]any{}, two: map[string][]*Version{}, closed: map[string]bool{}, calls: map[string]int{},
	}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

// CA writes who vouches for the server into a file of a folder.
func (s *Server) CA(t testing.TB, dir string) string {
	t.Helper()
	return File(t, dir, "vault-ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
}

// File writes a credential.
func File(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Root gives a token without end.
func (s *Server) Root() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := "hvs." + rand.Text()
	s.tokens[t] = &token{}
	return t
}

// Revoke ends all tokens.
func (s *Server) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// Put1 writes a secret of engine 1.
func (s *Server) Put1(path string, data map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.one[path] = data
}

// Put2 writes a new version of a secret of engine 2, which may be changed.
func (s *Server) Put2(path string, data map[string]any) *Version {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &Version{Data: data}
	s.two[path] = append(s.two[path], v)
	return v
}

// Forbid has the policy deny a path of the API, such as kv2/data/a.
func (s *Server) Forbid(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed[path] = true
}

// Fail has f answer requests where it gives true; nil: no more.
func (s *Server) Fail(f func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Calls counts requests to paths that contain a word.
func (s *Server) Calls(word string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, c := range s.calls {
		if strings.Contains(path, word) {
			n += c
		}
	}
	return n
}

// Hang answers nothing until the client gives up.
func Hang(_ http.ResponseWriter, r *http.Request) bool {
	select {
	case <-r.Context().Done():
	case <-time.After(time.Minute):
	}
	return true
}

// Sealed answers as a sealed server does.
func Sealed(w http.ResponseWriter, _ *http.Request) bool {
	refuse(w, http.StatusServiceUnavailable, "Vault is sealed")
	return true
}

func refuse(w http.ResponseWriter, status int, text ...string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if text == nil {
		text = []string{}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": text})
}

func give(w http.ResponseWriter, v map[string]any) {
	v["request_id"], v["lease_id"], v["renewable"] = rand.Text(), "", false
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	s.mu.Lock()
	s.calls[path]++
	fault := s.fault
	s.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Header.Get("X-Vault-Namespace") != s.Namespace {
		refuse(w, http.StatusForbidden, "permission denied")
		return
	}
	if r.Method == http.MethodPost && strings.HasSuffix(path, "/login") {
		s.logIn(w, r, path)
		return
	}
	name := r.Header.Get("X-Vault-Token")
	t := s.tokens[name]
	if t == nil || !t.until.IsZero() && !s.now().Before(t.until) || s.closed[path] {
		refuse(w, http.StatusForbidden, "permission denied")
		return
	}
	switch {
	case r.Method == http.MethodPost && path == "auth/token/renew-self":
		s.renew(w, name, t)
	case r.Method == http.MethodGet && strings.HasPrefix(path, "kv1/"):
		data := s.one[strings.TrimPrefix(path, "kv1/")]
		if data == nil {
			refuse(w, http.StatusNotFound)
			return
		}
		give(w, map[string]any{"lease_duration": 2764800, "data": data})
	case r.Method == http.MethodGet && strings.HasPrefix(path, "kv2/data/"):
		s.read2(w, r, strings.TrimPrefix(path, "kv2/data/"))
	default:
		refuse(w, http.StatusNotFound, "no handler for route")
	}
}

func (s *Server) read2(w http.ResponseWriter, r *http.Request, path string) {
	all := s.two[path]
	n := len(all)
	if q := r.URL.Query().Get("version"); q != "" && q != "0" {
		n, _ = strconv.Atoi(q)
	}
	if n < 1 || n > len(all) {
		refuse(w, http.StatusNotFound)
		return
	}
	v := all[n-1]
	meta := map[string]any{"version": n, "destroyed": v.Destroyed, "deletion_time": "", "created_time": s.now().Format(time.RFC3339Nano), "custom_metadata": nil}
	data := any(v.Data)
	if v.Destroyed || !v.Deleted.IsZero() {
		if data = nil; !v.Deleted.IsZero() {
			meta["deletion_time"] = v.Deleted.Format(time.RFC3339Nano)
		}
		w.WriteHeader(http.StatusNotFound)
	}
	give(w, map[string]any{"lease_duration": 0, "data": map[string]any{"data": data, "metadata": meta}})
}

func (s *Server) logIn(w http.ResponseWriter, r *http.Request, path string) {
	var in struct {
		RoleID   string `json:"role_id"`
		SecretID string `json:"secret_id"`
		Role     string `json:"role"`
		JWT      string `json:"jwt"`
	}
	if json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&in) != nil {
		refuse(w, http.StatusBadRequest, "malformed")
		return
	}
	switch path {
	case "auth/approle/login":
		if in.RoleID != s.RoleID || in.SecretID != s.SecretID || s.SecretIDUses == 0 {
			refuse(w, http.StatusBadRequest, "invalid role or secret ID")
			return
		}
		s.SecretIDUses--
	case "auth/kubernetes/login":
		if in.Role != s.Role || in.JWT != s.JWT {
			refuse(w, http.StatusForbidden, "permission denied")
			return
		}
	default:
		refuse(w, http.StatusNotFound, "no handler for route")
		return
	}
	name, now := "hvs."+rand.Text(), s.now()
	s.tokens[name] = &token{until: now.Add(s.Lease), last: now.Add(s.MaxTTL), renewable: true}
	s.giveLease(w, name)
}

func (s *Server) renew(w http.ResponseWriter, name string, t *token) {
	if !t.renewable {
		refuse(w, http.StatusBadRequest, "lease is not renewable")
		return
	}
	if t.until = s.now().Add(s.Lease); t.until.After(t.last) {
		t.until = t.last
	}
	s.giveLease(w, name)
}

func (s *Server) giveLease(w http.ResponseWriter, name string) {
	t := s.tokens[name]
	give(w, map[string]any{"data": nil, "auth": map[string]any{
		"client_token": name, "accessor": rand.Text(), "policies": []string{"default"}, "lease_duration": int(t.until.Sub(s.now()).Seconds()), "renewable": t.renewable,
	}})
}
