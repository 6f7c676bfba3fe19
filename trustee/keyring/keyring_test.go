package keyring

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/store/bolt"
)

func TestEnvelope(t *testing.T) {
	dir := t.TempDir()
	kek, err := CreateFileKEK(filepath.Join(dir, "k"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := CreateFileKEK(filepath.Join(dir, "k"))
	if err != nil || again.ID() != kek.ID() {
		t.Fatalf("%v", err)
	}
	box, err := Encrypt(t.Context(), kek, "here", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := Decrypt(t.Context(), again, "here", box); err != nil || string(p) != "x" {
		t.Errorf("%q, %v", p, err)
	}
	if _, err := Decrypt(t.Context(), kek, "there", box); err == nil {
		t.Error("a value moved to another place decrypts")
	}
	other, err := CreateFileKEK(filepath.Join(dir, "k2"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decrypt(t.Context(), other, "here", box); err == nil {
		t.Error("decrypts under another key")
	}
	for i := range box {
		bad := slices.Clone(box)
		bad[i] ^= 1
		if p, err := Decrypt(t.Context(), kek, "here", bad); err == nil && string(p) != "x" {
			t.Errorf("byte %d changed: %q", i, p)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "k"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFileKEK(filepath.Join(dir, "k")); err == nil {
		t.Error("a key file that all can read")
	}
}

func TestKeysStayAndTLSFollowsItsNames(t *testing.T) {
	dir := t.TempDir()
	kek, err := CreateFileKEK(filepath.Join(dir, "k"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := bolt.Open(filepath.Join(dir, "db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now := time.Now()
	a, err := Load(t.Context(), s, kek, now)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Load(t.Context(), s, kek, now)
	if err != nil {
		t.Fatal(err)
	}
	if string(a.CAPEM) != string(b.CAPEM) || string(a.MAC) != string(b.MAC) || a.Instance != b.Instance {
		t.Error("keys changed")
	}
	names := []string{"localhost", "127.0.0.1", "::1"}
	tls := func(names []string, at time.Time) []byte {
		t.Helper()
		c, err := b.TLS(t.Context(), s, kek, names, at)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if err := c.Leaf.VerifyHostname(n); err != nil {
				t.Error(err)
			}
		}
		return c.Certificate[0]
	}
	first := tls(names, now)
	if string(first) != string(tls(names, now.AddDate(0, 1, 0))) {
		t.Error("a good certificate was replaced")
	}
	more := tls(append(names, "kbs.example"), now)
	if string(first) == string(more) {
		t.Error("a new name gave no new certificate")
	}
	if string(more) == string(tls(append(names, "kbs.example"), now.AddDate(0, 11, 15))) {
		t.Error("a certificate near its end was not replaced")
	}
}

// What opens keys of the trustee's own opens no secret.
func TestPlacedIsNoWayToASecret(t *testing.T) {
	kek, err := CreateFileKEK(filepath.Join(t.TempDir(), "envelope.key"))
	if err != nil {
		t.Fatal(err)
	}
	const place = "secret/default/default/db/password@1"
	box, err := Encrypt(t.Context(), kek, place, []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{place, PlaceBackup, PlaceStoreMAC, ""} {
		if b, err := (Placed{kek}).Unwrap(t.Context(), p, box); err == nil {
			t.Errorf("%q opens %q", p, b)
		}
	}
	box, err = Placed{kek}.Wrap(t.Context(), PlaceBackup, []byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := (Placed{kek}).Unwrap(t.Context(), PlaceBackup, box); err != nil || string(b) != "key" {
		t.Errorf("%q, %v", b, err)
	}
}
