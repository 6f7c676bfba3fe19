// Package fakevault behaves like the transit engine of a Vault server, over TLS, as far
// as its published HTTP API says: tokens, namespaces, key versions, additional data, and
// the ways in which such a server fails.
//
// Trust zone: tests only.
package fakevault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
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

// Server is one Vault with one key.
type Server struct {
	*httptest.Server
	Token     string
	Namespace string

	mu       sync.Mutex
	versions [][]byte
	fault    func(http.ResponseWriter, *http.Request) bool
	calls    int
}

// Start starts one with the key /transit/keys/coffer.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{Token: "hvs." + rand.Text()}
	s.Rotate()
	s.Server = httptest.NewTLSServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

// Spec gives what names this server in --key-service, with files of a folder.
func (s *Server) Spec(t testing.TB, dir string) string {
	t.Helper()
	ca, token := filepath.Join(dir, "vault-ca.pem"), filepath.Join(dir, "vault-token")
	for path, b := range map[string][]byte{
		ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), token: []byte(s.Token + "\n"),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spec := fmt.Sprintf("vault-transit:%s/transit/coffer?token-file=%s&ca=%s", s.URL, token, ca)
	if s.Namespace != "" {
		spec += "&namespace=" + s.Namespace
	}
	return spec
}

// Rotate adds a version of the key; older ciphertexts are decrypted still.
func (s *Server) Rotate() {
	k := make([]byte, 32)
	rand.Read(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.versions = append(s.versions, k)
}

// Fail has f answer requests where it gives true; nil: no more.
func (s *Server) Fail(f func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Calls counts what was asked.
func (s *Server) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.calls++
	fault := s.fault
	s.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	refuse := func(status int, text string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string][]string{"errors": {text}})
	}
	if r.Header.Get("X-Vault-Token") != s.Token || r.Header.Get("X-Vault-Namespace") != s.Namespace {
		refuse(http.StatusForbidden, "permission denied")
		return
	}
	var in struct {
		Plaintext  string `json:"plaintext"`
		Ciphertext string `json:"ciphertext"`
		Associated string `json:"associated_data"`
	}
	if r.Method != http.MethodPost || json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&in) != nil {
		refuse(http.StatusBadRequest, "malformed")
		return
	}
	aad, err := base64.StdEncoding.DecodeString(in.Associated)
	if err != nil {
		refuse(http.StatusBadRequest, "failed to base64-decode associated_data")
		return
	}
	var data map[string]any
	switch r.URL.Path {
	case "/v1/transit/encrypt/coffer":
		data, err = s.encrypt(in.Plaintext, aad)
	case "/v1/transit/decrypt/coffer":
		data, err = s.decrypt(in.Ciphertext, aad)
	default:
		refuse(http.StatusNotFound, "no handler for route")
		return
	}
	if err != nil {
		refuse(http.StatusBadRequest, err.Error())
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"request_id": rand.Text(), "lease_id": "", "renewable": false, "lease_duration": 0, "data": data})
}

func (s *Server) gcm(version int) (cipher.AEAD, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if version < 1 || version > len(s.versions) {
		return nil, fmt.Errorf("ciphertext version is disallowed by policy")
	}
	c, err := aes.NewCipher(s.versions[version-1])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(c)
}

func (s *Server) encrypt(plaintext string, aad []byte) (map[string]any, error) {
	p, err := base64.StdEncoding.DecodeString(plaintext)
	if err != nil {
		return nil, fmt.Errorf("failed to base64-decode plaintext")
	}
	s.mu.Lock()
	newest := len(s.versions)
	s.mu.Unlock()
	g, err := s.gcm(newest)
	if err != nil {
		return nil, err
	}
	c := g.Seal(nil, nil, p, aad) //nolint:gosec // this AEAD makes a random nonce itself
	return map[string]any{"ciphertext": fmt.Sprintf("vault:v%d:%s", newest, base64.StdEncoding.EncodeToString(c)), "key_version": newest}, nil
}

func (s *Server) decrypt(ciphertext string, aad []byte) (map[string]any, error) {
	rest, ok := strings.CutPrefix(ciphertext, "vault:v")
	number, text, found := strings.Cut(rest, ":")
	version, err := strconv.Atoi(number)
	b, berr := base64.StdEncoding.DecodeString(text)
	if !ok || !found || err != nil || berr != nil {
		return nil, fmt.Errorf("invalid ciphertext: no prefix")
	}
	g, err := s.gcm(version)
	if err != nil {
		return nil, err
	}
	p, err := g.Open(nil, nil, b, aad)
	if err != nil {
		return nil, fmt.Errorf("cipher: message authentication failed")
	}
	return map[string]any{"plaintext": base64.StdEncoding.EncodeToString(p)}, nil
}

// Hang answers nothing until the client gives up.
func Hang(_ http.ResponseWriter, r *http.Request) bool {
	_, _ = io.Copy(io.Discard, r.Body) // else nobody notices that the client has gone
	select {
	case <-r.Context().Done():
	case <-time.After(time.Minute):
	}
	return true
}
