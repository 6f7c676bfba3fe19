package vaultkv

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/outbound"
	"github.com/cofferproject/coffer/trustee/secretstore"
	"github.com/cofferproject/coffer/trustee/secretstore/vaultkv/fakekv"
)

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func open(t *testing.T, v *fakekv.Server, c *clock, options string) *store {
	t.Helper()
	spec, err := secretstore.ParseSpec("v=vault:" + v.URL + "/kv2?kv=2&namespaces=n&ca=" + v.CA(t, t.TempDir()) + options)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	s.(*store).now = c.now
	return s.(*store)
}

var password = secretstore.Want{Name: "db", Field: "password"}

func fetch(t *testing.T, s *store) (string, error) {
	t.Helper()
	out, err := s.Fetch(t.Context(), password)
	if err != nil {
		return "", err
	}
	return string(out.Value), nil
}

// TestLogins logs in each way, and again when the lease has ended or the token was
// taken back.
func TestLogins(t *testing.T) {
	c := &clock{at: time.Now()}
	v := fakekv.Start(t, c.now)
	v.Namespace = "team"
	v.Put2("db", map[string]any{"password": "hunter2"})
	dir := t.TempDir()
	role, secret, jwt := fakekv.File(t, dir, "role", v.RoleID+"\n"), fakekv.File(t, dir, "secret", v.SecretID), fakekv.File(t, dir, "jwt", v.JWT)
	if err := os.Chmod(jwt, 0o644); err != nil { // as a kubelet projects it
		t.Fatal(err)
	}
	for name, options := range map[string]string{
		"approle": "&namespace=team&approle=approle&role-id-file=" + role + "&secret-id-file=" + secret, "kubernetes": "&namespace=team&kubernetes=kubernetes&role=coffer&jwt-file=" + jwt,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, v, c, options)
			logins := func() int { return v.Calls("auth/" + name + "/login") }
			for range 3 {
				if got, err := fetch(t, s); err != nil || got != "hunter2" {
					t.Fatalf("%q, %v", got, err)
				}
			}
			if logins() != 1 {
				t.Errorf("%d logins for three secrets", logins())
			}
			c.advance(2 * time.Hour) // the lease has ended
			if got, err := fetch(t, s); err != nil || got != "hunter2" || logins() != 2 {
				t.Errorf("after the lease: %q, %v, %d logins", got, err, logins())
			}
			c.advance(time.Minute)
			v.Revoke()
			if got, err := fetch(t, s); err != nil || got != "hunter2" || logins() != 3 {
				t.Errorf("after the token was taken back: %q, %v, %d logins", got, err, logins())
			}
			// What the policy refuses makes no login of each request.
			v.Forbid("kv2/data/other")
			for range 5 {
				if _, err := s.Fetch(t.Context(), secretstore.Want{Name: "other", Field: "x"}); !errors.Is(err, secretstore.ErrRefused) {
					t.Error(err)
				}
			}
			if logins() != 3 {
				t.Errorf("%d logins", logins())
			}
		})
	}
	for file, options := range map[string]string{
		jwt: "&namespace=team&kubernetes=kubernetes&role=coffer&jwt-file=" + jwt, secret: "&namespace=team&approle=approle&role-id-file=" + role + "&secret-id-file=" + secret,
	} {
		if err := os.Chmod(file, 0o646); err != nil {
			t.Fatal(err)
		}
		if _, err := fetch(t, open(t, v, c, options)); !errors.Is(err, secretstore.ErrRefused) || !strings.Contains(err.Error(), file) {
			t.Errorf("others may write %s: %v", file, err)
		}
		if err := os.Chmod(file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wrong := open(t, v, c, "&namespace=team&approle=approle&role-id-file="+role+"&secret-id-file="+jwt)
	if _, err := fetch(t, wrong); !errors.Is(err, secretstore.ErrRefused) || strings.Contains(err.Error(), v.JWT) {
		t.Errorf("a wrong secret id: %v", err)
	}
	elsewhere := open(t, v, c, "&approle=approle&role-id-file="+role+"&secret-id-file="+secret)
	if _, err := fetch(t, elsewhere); !errors.Is(err, secretstore.ErrRefused) {
		t.Errorf("without the namespace: %v", err)
	}
}

// TestLeaseIsRenewed has a token of a secret id that is good once live on for a day.
func TestLeaseIsRenewed(t *testing.T) {
	c := &clock{at: time.Now()}
	v := fakekv.Start(t, c.now)
	v.SecretIDUses, v.MaxTTL = 1, 72*time.Hour
	v.Put2("db", map[string]any{"password": "hunter2"})
	dir := t.TempDir()
	s := open(t, v, c, "&approle=approle&role-id-file="+fakekv.File(t, dir, "role", v.RoleID)+"&secret-id-file="+fakekv.File(t, dir, "secret", v.SecretID))
	if wait, err := s.renew(t.Context()); err != nil || wait != soonest || v.Calls("renew") != 0 {
		t.Errorf("nothing to renew: %v, %v", wait, err)
	}
	if _, err := fetch(t, s); err != nil {
		t.Fatal(err)
	}
	for range 48 { // a day
		wait, err := s.renew(t.Context())
		if err != nil || wait < soonest || wait > latest {
			t.Fatalf("%v, %v", wait, err)
		}
		c.advance(wait)
	}
	if got, err := fetch(t, s); err != nil || got != "hunter2" || v.Calls("login") != 1 || v.Calls("renew-self") < 10 {
		t.Errorf("%q, %v, %d logins, %d renewals", got, err, v.Calls("login"), v.Calls("renew-self"))
	}
	// A failure is told, and does not end the token.
	v.Fail(fakekv.Sealed)
	c.advance(10 * time.Minute)
	if wait, err := s.renew(t.Context()); !errors.Is(err, secretstore.ErrAway) || wait != soonest {
		t.Errorf("%v, %v", wait, err)
	}
	v.Fail(nil)
	if _, err := fetch(t, s); err != nil {
		t.Error(err)
	}
	c.advance(100 * time.Hour)
	if _, err := fetch(t, s); !errors.Is(err, secretstore.ErrRefused) { // the secret id was good once
		t.Errorf("after its end: %v", err)
	}
}

// TestTokenFile reads the file anew each time, and renews what can be.
func TestTokenFile(t *testing.T) {
	c := &clock{at: time.Now()}
	v := fakekv.Start(t, c.now)
	v.Put2("db", map[string]any{"password": "hunter2"})
	dir := t.TempDir()
	file := fakekv.File(t, dir, "token", "hvs.nobody")
	s := open(t, v, c, "&token-file="+file)
	if _, err := fetch(t, s); !errors.Is(err, secretstore.ErrRefused) || strings.Contains(err.Error(), "hvs.") {
		t.Errorf("a wrong token: %v", err)
	}
	fakekv.File(t, dir, "token", v.Root()+"\n")
	if got, err := fetch(t, s); err != nil || got != "hunter2" {
		t.Errorf("%q, %v", got, err)
	}
	if wait, err := s.renew(t.Context()); err != nil || wait != latest || v.Calls("renew-self") != 1 {
		t.Errorf("a token without a lease: %v, %v", wait, err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := fetch(t, s); !errors.Is(err, secretstore.ErrRefused) || !strings.Contains(err.Error(), "lets others use it") {
		t.Errorf("a token for everybody: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	f := filepath.Join(dir, "f")
	if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"http://v:8200/kv?kv=2&token-file=" + f, "https://v/kv?token-file=" + f, "https://v/kv?kv=3&token-file=" + f, "https://v?kv=2&token-file=" + f, "https://v/../kv?kv=2&token-file=" + f,
		"https://u:p@v/kv?kv=2&token-file=" + f, "https://v/kv?kv=2", "https://v/kv?kv=2&token-file=" + f + "&approle=a&role-id-file=" + f + "&secret-id-file=" + f, "https://v/kv?kv=2&approle=a&role-id-file=" + f,
		"https://v/kv?kv=2&kubernetes=k", "https://v/kv?kv=2&kubernetes=../k&role=r", "https://v/kv?kv=2&token-file=" + f + "&role=r", "https://v/kv?kv=2&token-file=" + f + "&skip-verify=1",
		"https://v/kv?kv=2&token-file=" + f + "&ca=" + f, "https://v/kv?kv=2&token-file=" + f + "&ca=" + dir + "/none", "://?kv=2",
	} {
		spec, err := secretstore.ParseSpec("v=vault:" + text + "&namespaces=n")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), spec); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// FuzzAnswers reads answers of a server that is not what it should be.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		`{"data":{"data":{"password":"x"},"metadata":{"version":1}}}`, `{"data":{"password":"x"}}`, `{"data":{"data":null,"metadata":{"version":1,"deletion_time":"2026-01-01T00:00:00Z"}}}`,
		`{"errors":["permission denied"]}`, `{"auth":{"client_token":"t","lease_duration":60,"renewable":true}}`, `{"data":{"data":{"password":[1,2,256]},"metadata":{"version":18446744073709551615}}}`, `[`, ``,
	} {
		f.Add(200, []byte(s))
		f.Add(404, []byte(s))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		for _, want := range []secretstore.Want{password, {Name: "db", Field: "password", Version: "1"}} {
			for _, decode := range []func(a *outbound.Answer) (*secretstore.Secret, error){
				func(a *outbound.Answer) (*secretstore.Secret, error) { return decode1(a, want.Field) },
				func(a *outbound.Answer) (*secretstore.Secret, error) { return decode2(a, want) },
			} {
				s, err := decode(&outbound.Answer{Status: status, Body: append([]byte(nil), body...)})
				if (s == nil) == (err == nil) || s != nil && status != http.StatusOK {
					t.Fatalf("%v, %v", s, err)
				}
				if err != nil && !errors.Is(err, secretstore.ErrAbsent) && !errors.Is(err, secretstore.ErrDeleted) && !errors.Is(err, secretstore.ErrRefused) && !errors.Is(err, secretstore.ErrMalformed) {
					t.Fatalf("an error of no kind: %v", err)
				}
			}
		}
		if l, err := decodeLease(append([]byte(nil), body...)); err == nil && (l.Auth.Token == "" || strings.ContainsAny(l.Auth.Token, " \r\n")) {
			t.Fatalf("%+v", l)
		}
	})
}
