package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/bolt"
	"github.com/cofferproject/coffer/trustee/tenant"
)

type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newManager(t *testing.T) (*Manager, *clock, *bolt.Store) {
	t.Helper()
	s, err := bolt.Open(filepath.Join(t.TempDir(), "db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c := &clock{time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)}
	return New(s, []byte("mac key"), limits.Defaults(), c.now), c, s
}

func opened(t *testing.T, m *Manager) (o *Open, expires time.Time) {
	t.Helper()
	cookie, expires, err := m.Begin(Open{Namespace: "ns", TEE: "snp", Nonce: NewNonce()})
	if err == nil {
		o, err = m.Opened(t.Context(), "ns", cookie)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o, expires
}

func complete(t *testing.T, m *Manager, token string) string {
	t.Helper()
	o, _ := opened(t, m)
	out, err := m.Complete(t.Context(), o, token, m.now().Add(5*time.Minute), func(store.Tx) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A cookie is worth something only as it was given: every byte of it counts, its
// time as well.
func TestCookieOfAttestedSession(t *testing.T) {
	m, c, s := newManager(t)
	cookie := complete(t, m, "token one")
	if got, err := m.Token(t.Context(), "ns", cookie); err != nil || got != "token one" {
		t.Fatalf("%q, %v", got, err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(cookie, prefixAttested))
	if err != nil {
		t.Fatal(err)
	}
	bad := []string{"", "a1.", "o1.x", cookie + "A", cookie[:len(cookie)-1], cookie + "=", cookie[:10] + "\n" + cookie[10:], strings.Repeat("a", 200)}
	for i := range raw {
		x := bytes.Clone(raw)
		x[i] ^= 1
		bad = append(bad, prefixAttested+base64.RawURLEncoding.EncodeToString(x))
	}
	for _, b := range bad {
		if got, err := m.Token(t.Context(), "ns", b); !errors.Is(err, ErrNone) {
			t.Errorf("%q: %q, %v", b, got, err)
		}
	}
	if _, err := m.Token(t.Context(), "other", cookie); !errors.Is(err, ErrNone) {
		t.Errorf("in another namespace: %v", err)
	}
	// Nothing in the store is a cookie.
	if err := s.Dump(t.Context(), func(b, k string, v []byte) error {
		if strings.Contains(k, cookie[5:40]) || bytes.Contains(v, []byte(cookie[5:40])) {
			t.Errorf("%s/%s holds the cookie", b, k)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c.at = c.at.Add(5 * time.Minute)
	if _, err := m.Token(t.Context(), "ns", cookie); !errors.Is(err, ErrNone) {
		t.Errorf("after its end: %v", err)
	}
}

// Later sessions lie behind earlier ones, and two of one moment are two.
func TestSessionsLieInTheirOrder(t *testing.T) {
	m, c, s := newManager(t)
	var want []string
	for i := range 20 {
		c.at = c.at.Add(time.Millisecond)
		want = append(want, strings.Repeat("x", i+1))
		complete(t, m, want[i])
	}
	var got []string
	if err := s.View(t.Context(), func(tx store.Tx) error {
		return tx.Scan(tenant.Bucket("ns", sessionsBucket), "", func(_ string, v []byte) (bool, error) {
			a, err := decodeAttested(v)
			if err == nil {
				got = append(got, a.Token)
			}
			return true, err
		})
	}); err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%q", got)
	}
	one, two := complete(t, m, "one"), complete(t, m, "two")
	for cookie, token := range map[string]string{one: "one", two: "two"} {
		if got, err := m.Token(t.Context(), "ns", cookie); err != nil || got != token {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// A session that a trustee of before has begun goes on.
func TestCookieWithoutTime(t *testing.T) {
	m, c, s := newManager(t)
	cookie := prefixAttested + base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	sum := sha256.Sum256([]byte(cookie))
	k := hex.EncodeToString(sum[:])
	if err := s.Update(t.Context(), func(tx store.Tx) error {
		return store.PutJSON(tx, tenant.Bucket("ns", sessionsBucket), k, attested{"token", c.at.Add(time.Minute).Unix()})
	}); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Token(t.Context(), "ns", cookie); err != nil || got != "token" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestOneTokenForANonce has evidence that came twice, the second time when the cookie has
// ended and Sweep has been at work.
func TestOneTokenForANonce(t *testing.T) {
	m, c, _ := newManager(t)
	o, expires := opened(t, m)
	none := func(store.Tx) error { return nil }
	if _, err := m.Complete(t.Context(), o, "one", c.at.Add(time.Hour), none); err != nil {
		t.Fatal(err)
	}
	before := c.at
	c.at = expires.Add(2 * time.Second)
	_, err := m.Complete(t.Context(), o, "late", c.at.Add(time.Hour), none)
	if d, ok := denial.As(err); !ok || d.Reason != ReasonExpired {
		t.Errorf("after its time: %v", err)
	}
	if _, err := m.Sweep(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	c.at = before // a replica whose clock is behind
	_, err = m.Complete(t.Context(), o, "two", c.at.Add(time.Hour), none)
	if d, ok := denial.As(err); !ok || d.Reason != ReasonUsed {
		t.Errorf("a second time: %v", err)
	}
}
