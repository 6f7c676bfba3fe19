package transit_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/keyservice"
	"github.com/cofferproject/coffer/trustee/keyservice/transit"
	"github.com/cofferproject/coffer/trustee/keyservice/transit/fakevault"
)

func open(t *testing.T, v *fakevault.Server, dir string) keyservice.Service {
	t.Helper()
	s, err := transit.Open(t.Context(), strings.TrimPrefix(v.Spec(t, dir), "vault-transit:"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWrap(t *testing.T) {
	v := fakevault.Start(t)
	v.Namespace = "team-a"
	dir := t.TempDir()
	s := open(t, v, dir)
	key := bytes.Repeat([]byte{7}, 32)
	wrapped, err := s.Wrap(t.Context(), key, []byte("place"))
	if err != nil || bytes.Contains(wrapped, key) {
		t.Fatalf("%q, %v", wrapped, err)
	}
	v.Rotate()
	if got, err := s.Unwrap(t.Context(), wrapped, []byte("place")); err != nil || !bytes.Equal(got, key) {
		t.Errorf("%x, %v", got, err)
	}
	if _, err := s.Unwrap(t.Context(), wrapped, []byte("another place")); err == nil || !strings.Contains(err.Error(), "authentication failed") {
		t.Errorf("other additional data: %v", err)
	}
	if id := s.ID(); !strings.HasPrefix(id, "vault-transit:127.0.0.1:") || !strings.HasSuffix(id, "/team-a/transit/coffer") {
		t.Error(id)
	}
	// A token that was renewed counts at once, and one that ended does not.
	v.Token = "hvs.next"
	if _, err := s.Unwrap(t.Context(), wrapped, []byte("place")); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("an old token: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vault-token"), []byte("hvs.next\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Unwrap(t.Context(), wrapped, []byte("place")); err != nil {
		t.Errorf("the renewed token: %v", err)
	}
}

func TestFaults(t *testing.T) {
	v := fakevault.Start(t)
	s := open(t, v, t.TempDir())
	wrapped, err := s.Wrap(t.Context(), make([]byte, 32), nil)
	if err != nil {
		t.Fatal(err)
	}
	status := func(code int, times int64) func(http.ResponseWriter, *http.Request) bool {
		var n atomic.Int64
		return func(w http.ResponseWriter, _ *http.Request) bool {
			if n.Add(1) > times {
				return false
			}
			w.WriteHeader(code)
			return true
		}
	}
	for name, f := range map[string]func(http.ResponseWriter, *http.Request) bool{"too many requests": status(429, 1), "sealed": status(503, 2)} {
		v.Fail(f)
		if _, err := s.Unwrap(t.Context(), wrapped, nil); err != nil {
			t.Errorf("%s, then well: %v", name, err)
		}
	}
	before := v.Calls()
	for name, x := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request) bool
		want  string
		calls int
	}{
		"refused":  {status(403, 9), "403", 1},
		"down":     {status(500, 9), "500", 3},
		"huge":     {func(w http.ResponseWriter, _ *http.Request) bool { w.Write(make([]byte, 1<<20)); return true }, "more than", 1},
		"not its":  {func(w http.ResponseWriter, _ *http.Request) bool { w.Write([]byte(`{"data":7}`)); return true }, "not the transit", 1},
		"no plain": {func(w http.ResponseWriter, _ *http.Request) bool { w.Write([]byte(`{"data":{}}`)); return true }, "no plaintext", 1},
		"redirecting": {func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "/v1/x", http.StatusTemporaryRedirect)
			return true
		}, "307", 1},
	} {
		v.Fail(x.fault)
		got, err := s.Unwrap(t.Context(), wrapped, nil)
		if err == nil || !strings.Contains(err.Error(), x.want) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if n := v.Calls() - before; n != x.calls {
			t.Errorf("%s: asked %d times, want %d", name, n, x.calls)
		}
		before = v.Calls()
	}
	v.Fail(fakevault.Hang)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.Unwrap(ctx, wrapped, nil); err == nil {
		t.Error("a hung server")
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, spec := range []string{
		"", "http://vault/transit/k?token-file=x", "https://vault/k?token-file=x", "https://user:secret@vault/transit/k?token-file=x",
		"https://vault/transit/k", "https://vault/transit/k?token-file=x&token=secret", "https://vault/transit/k?token-file=x&token-file=y",
		"https://vault/../transit/k?token-file=x", "https://vault/transit/k%2f..?token-file=x", "https://vault/transit/k?token-file=x&ca=" + filepath.Join(dir, "none"),
		"https://vault/transit/k?token-file=x#f", "://",
	} {
		if _, err := transit.Open(t.Context(), spec); err == nil {
			t.Errorf("%q is taken", spec)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error has the password: %v", spec, err)
		}
	}
	v := fakevault.Start(t)
	other := fakevault.Start(t)
	// Another server's certificate authority.
	spec := strings.Replace(v.Spec(t, dir), v.URL, strings.Replace(other.URL, "127.0.0.1", "localhost", 1), 1)
	s, err := transit.Open(t.Context(), strings.TrimPrefix(spec, "vault-transit:"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wrap(t.Context(), make([]byte, 32), nil); err == nil {
		t.Error("a server with another name")
	}
	for _, token := range []string{"", "two words", strings.Repeat("x", 9000)} {
		s := open(t, v, dir)
		if err := os.WriteFile(filepath.Join(dir, "vault-token"), []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Wrap(t.Context(), make([]byte, 32), nil); err == nil || !strings.Contains(err.Error(), "token") {
			t.Errorf("token %.10q: %v", token, err)
		}
	}
}
