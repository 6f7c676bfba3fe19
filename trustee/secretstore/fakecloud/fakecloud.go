// Package fakecloud behaves like the secret managers of four clouds, with the services
// that give credentials for them, over TLS, as far as their published APIs say: they
// check signatures, tokens and their ends, and fail as told.
//
// Trust zone: tests only.
package fakecloud

import (
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Version is one version of a secret.
type Version struct {
	ID       string
	Value    []byte
	Binary   bool
	Disabled bool
	Expires  time.Time
}

// Cloud is what the four have in common.
type Cloud struct {
	*httptest.Server
	Now func() time.Time

	mu      sync.Mutex
	secrets map[string][]*Version
	tokens  map[string]time.Time // until
	fault   func(http.ResponseWriter, *http.Request) bool
	calls   map[string]int
}

func start(t testing.TB, h func(http.ResponseWriter, *http.Request)) *Cloud {
	t.Helper()
	c := &Cloud{Now: time.Now, secrets: map[string][]*Version{}, tokens: map[string]time.Time{}, calls: map[string]int{}}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.calls[r.URL.Path]++
		fault := c.fault
		c.mu.Unlock()
		if fault != nil && fault(w, r) {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		h(w, r)
	}))
	t.Cleanup(c.Close)
	return c
}

// Put adds a version, which may be changed.
func (c *Cloud) Put(name string, v Version) *Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secrets[name] = append(c.secrets[name], &v)
	return &v
}

// Fail has f answer requests where it gives true; nil: no more.
func (c *Cloud) Fail(f func(http.ResponseWriter, *http.Request) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = f
}

// Calls counts requests to paths that contain a word.
func (c *Cloud) Calls(word string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, k := range c.calls {
		if strings.Contains(p, word) {
			n += k
		}
	}
	return n
}

// Revoke ends all tokens.
func (c *Cloud) Revoke() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.tokens)
}

// find gives a version by its id, the newest for "".
func (c *Cloud) find(name, id string) *Version {
	all := c.secrets[name]
	for i := len(all) - 1; i >= 0; i-- {
		if id == "" || all[i].ID == id {
			return all[i]
		}
	}
	return nil
}

func (c *Cloud) issue(life time.Duration) string {
	t := rand.Text() + "." + rand.Text()
	c.tokens[t] = c.Now().Add(life)
	return t
}

func (c *Cloud) bearer(r *http.Request) bool {
	t, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	until, known := c.tokens[t]
	return ok && known && c.Now().Before(until)
}

// CA writes who vouches for the server into a file.
func (c *Cloud) CA(t testing.TB) string {
	return File(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw})))
}

// File writes a credential into a folder of its own.
func File(t testing.TB, name, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func give(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

type doc = map[string]any
