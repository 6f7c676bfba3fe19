package server

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFirstAdmin has the first start register a key that was made elsewhere, and a
// later one leave credentials alone.
func TestFirstAdmin(t *testing.T) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "admin.pub")
	if err := os.WriteFile(file, []byte(publicPEM(t, pub)), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{State: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Now: time.Now, FirstAdmin: file}
	whoami := func(keys ...ed25519.PrivateKey) (out []int) {
		s, err := Start(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		if _, err := os.Stat(filepath.Join(c.State, "admin.key")); !errors.Is(err, os.ErrNotExist) || s.Client().AdminKeyPath != "" {
			t.Errorf("a key was made all the same: %v, %q", err, s.Client().AdminKeyPath)
		}
		for _, k := range keys {
			s.admin = filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(s.admin, privatePEM(t, k), 0o600); err != nil {
				t.Fatal(err)
			}
			status, _ := newAdminClient(t, s).do("GET", "/whoami", nil)
			out = append(out, status)
		}
		return out
	}
	// Somebody else's key at a later start is nobody's.
	other, otherKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if got := whoami(key, otherKey); !slices.Equal(got, []int{200, 401}) {
		t.Errorf("first start: %v", got)
	}
	if err := os.WriteFile(file, []byte(publicPEM(t, other)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := whoami(key, otherKey); !slices.Equal(got, []int{200, 401}) {
		t.Errorf("a later start: %v", got)
	}
	for name, text := range map[string]string{"nothing": "", "a private key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no file": "-"} {
		c := c
		c.State, c.FirstAdmin = t.TempDir(), filepath.Join(t.TempDir(), "x")
		if text != "-" {
			if err := os.WriteFile(c.FirstAdmin, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := Start(t.Context(), c); err == nil {
			s.Close(t.Context())
			t.Errorf("%s: started", name)
		} else if !strings.Contains(err.Error(), "first administrator") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func privatePEM(t *testing.T, key ed25519.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
