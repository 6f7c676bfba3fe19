package trusteeapi_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

func TestToken(t *testing.T) {
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	other, _, _ := ed25519.GenerateKey(rand.Reader)
	now := time.Now()
	raw, err := trusteeapi.SignToken(key, "GET", "/coffer/v1/info", now)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := trusteeapi.ParseToken(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := tok.Verify(pub, "GET", "/coffer/v1/info", now); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another key":    tok.Verify(other, "GET", "/coffer/v1/info", now),
		"another method": tok.Verify(pub, "PUT", "/coffer/v1/info", now),
		"another path":   tok.Verify(pub, "GET", "/coffer/v1/audit", now),
		"expired":        tok.Verify(pub, "GET", "/coffer/v1/info", now.Add(3*time.Minute)),
		"of the future":  tok.Verify(pub, "GET", "/coffer/v1/info", now.Add(-3*time.Minute)),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNamespaceNames(t *testing.T) {
	for n, ok := range map[string]bool{"default": true, "a": true, "a-b": true, "": false, "-a": false, "a-": false, "A": false, "a/b": false, "a.b": false, "..": false} {
		if err := trusteeapi.CheckNamespace(n); (err == nil) != ok {
			t.Errorf("%q: %v", n, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	now := time.Now()
	raw, err := trusteeapi.SignToken(key, "GET", "/x", now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add("e30.e30.")
	f.Fuzz(func(t *testing.T, in string) {
		tok, err := trusteeapi.ParseToken(in)
		if err == nil && in != raw && tok.Verify(pub, "GET", "/x", now) == nil {
			t.Errorf("a forged token verifies: %q", in)
		}
	})
}

func FuzzVerifyBearer(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	now := time.Now()
	raw, err := trusteeapi.SignBearer(key, "id", now, now.Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	if b, err := trusteeapi.VerifyBearer(raw, key.Public(), now); err != nil || b.ID != "id" {
		f.Fatalf("%+v, %v", b, err)
	}
	if _, err := trusteeapi.VerifyBearer(raw, key.Public(), now.Add(time.Hour)); err == nil {
		f.Fatal("an expired token verifies")
	}
	f.Add(raw)
	f.Add("e30.e30.")
	f.Add(raw[:len(raw)-4])
	f.Fuzz(func(t *testing.T, in string) {
		if _, err := trusteeapi.VerifyBearer(in, key.Public(), now); err == nil && in != raw {
			t.Errorf("a forged token verifies: %q", in)
		}
	})
}
