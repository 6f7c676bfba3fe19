package server

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
)

// pairs is all that a store holds, by bucket and key.
type pairs map[[2]string]string

func dump(t *testing.T, s store.Store) pairs {
	t.Helper()
	out := pairs{}
	if err := s.(store.Dumper).Dump(t.Context(), func(bucket, key string, value []byte) error {
		out[[2]string{bucket, key}] = string(value)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// rewind puts a store back to an earlier state behind the server's back, as who
// restores its database does.
func rewind(t *testing.T, s store.Store, to pairs) {
	t.Helper()
	now := dump(t, s)
	if err := s.Update(t.Context(), func(tx store.Tx) error {
		for at := range now {
			if err := tx.Delete(at[0], at[1]); err != nil {
				return err
			}
		}
		for at, v := range to {
			if err := tx.Put(at[0], at[1], []byte(v)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestRevocationAfterARewind: what was prepared before the database went back to an
// earlier state does not outlive a refusal that is made after.
func TestRevocationAfterARewind(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	w.admin.resourcePolicy("p", "*", "allow := true", "GET")
	c := w.client("")
	c.handshake(doc)
	trust := func(text string) {
		t.Helper()
		if status, b := w.admin.do("PUT", "/namespaces/default/policies/default_cpu", []byte(text)); status != 200 {
			t.Fatalf("%d %s", status, b)
		}
	}
	earlier := dump(t, w.s.store)
	for range 3 {
		w.admin.resourcePolicy("p", "*", "allow := false", "GET")
		w.admin.resourcePolicy("p", "*", "allow := true", "GET")
		trust(strings.Replace(fakePolicy(), "executables := 3 if input.faketee", "executables := 33 if input.faketee", 1))
		trust(fakePolicy())
	}
	prepared := w.client("")
	prepared.handshake(doc)
	if a := prepared.get(secretName); a.status != 200 {
		t.Fatalf("before: %d %s", a.status, a.body)
	}
	rewind(t, w.s.store, earlier)
	w.admin.resourcePolicy("p", "*", "allow := false", "GET")
	denied(t, w, c.get(secretName), 403, "resource-policy-denied")
	w.admin.resourcePolicy("p", "*", "allow := true", "GET")
	trust(strings.Replace(fakePolicy(), "executables := 3 if input.faketee", "executables := 33 if input.faketee", 1))
	after := w.client("")
	after.auth(fakeTEE, `""`)
	if a := after.attest(after.fake(doc), doc); a.status == 200 {
		if a := after.get(secretName); a.status == 200 {
			t.Error("evidence is judged by a policy of before the rewind")
		}
	}
}

// TestCompromisedKeyElsewhere rotates a key as compromised on one of two replicas. The
// other, which has not heard of it, releases nothing for what that key has signed.
func TestCompromisedKeyElsewhere(t *testing.T) {
	pg := pgtest.Start(t)
	url := pg.Database("trustee")
	key := filepath.Join(t.TempDir(), "envelope.key")
	if _, err := keyring.CreateFileKEK(key); err != nil {
		t.Fatal(err)
	}
	use := func(c *Config) { c.Database, c.EnvelopeKey = url, key }
	w := newWorld(t, use)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	other := w.cfg
	other.State = t.TempDir()
	second, err := Start(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close(context.WithoutCancel(t.Context()))
	c := w.client("")
	c.handshake(doc)
	there := newRCAR(t, string(second.keys.CAPEM), second.URL())
	there.key, there.token = c.key, c.token
	if a := there.bearer(secretName); a.status != 200 {
		t.Fatalf("before: %d %s", a.status, a.body)
	}
	for range 5 { // whenever its housekeeping may run
		w.admin.rotateTokenKey("default", trusteeapi.TokenKeyRotation{Compromised: true})
		if a := there.bearer(secretName); a.status != 401 || a.err.Reason != "token-invalid" {
			t.Fatalf("a compromised key counts on another replica: %d %s", a.status, a.body)
		}
		c.handshake(doc)
		if there.token = c.token; there.bearer(secretName).status != 200 {
			t.Fatal("a token of the new key does not count there")
		}
	}
}

// TestFailedStartLeavesNothing has the last listener fail: those before it are closed.
func TestFailedStartLeavesNothing(t *testing.T) {
	w := newWorld(t)
	taken := w.s.ln.Addr().String()
	c := Config{
		State: t.TempDir(), Listen: "127.0.0.1:0", Log: w.cfg.Log, Now: time.Now,
		Operations: Operations{Listen: "127.0.0.1:0"}, Services: Services{Reference: taken},
	}
	before := listeners(t)
	s, err := Start(t.Context(), c)
	if err == nil {
		s.Close(t.Context())
		t.Fatal("started on an address that is taken")
	}
	// A listener ends when the call that accepts on it has returned.
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		after := listeners(t)
		if slices.Equal(before, after) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("listeners before %v, after %v", before, after)
		}
	}
	// The state is free again.
	c.Services = Services{}
	if s, err = Start(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// listeners gives the TCP addresses on which this process listens.
func listeners(t *testing.T) (out []string) {
	t.Helper()
	inodes := map[string]bool{}
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if l, err := os.Readlink(fd); err == nil && strings.HasPrefix(l, "socket:[") {
			inodes[strings.Trim(l[len("socket:"):], "[]")] = true
		}
	}
	b, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 9 && f[3] == "0A" && inodes[f[9]] {
			out = append(out, f[1])
		}
	}
	slices.Sort(out)
	return out
}
