package credential

import (
	"crypto/ed25519"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/bolt"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Who has lost what he was authenticated with, or a part of it, gives nothing any more.
func TestGiverMustLive(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	owner := []trusteeapi.Grant{{Role: trusteeapi.RoleOwner, Namespace: "a"}, {Role: trusteeapi.RoleOwner, Namespace: "b"}}
	for what, tc := range map[string]struct {
		end  func(s *Store, id string, now *time.Time) error
		want error
	}{
		"nothing happens": {func(*Store, string, *time.Time) error { return nil }, nil},
		"taken back": {func(s *Store, id string, _ *time.Time) error {
			_, err := s.Delete(t.Context(), id, false, func(*trusteeapi.Credential) error { return nil })
			return err
		}, ErrUnknown},
		"expired":    {func(_ *Store, _ string, now *time.Time) error { *now = now.Add(time.Hour); return nil }, ErrExpired},
		"lost grant": {func(s *Store, _ string, _ *time.Time) error { return s.DropNamespace(t.Context(), "b") }, ErrUnknown},
	} {
		t.Run(what, func(t *testing.T) {
			db, err := bolt.Open(filepath.Join(t.TempDir(), "db"), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			r, err := tenant.New(t.Context(), db, limits.Defaults(), time.Now)
			if err != nil {
				t.Fatal(err)
			}
			for _, ns := range []string{"a", "b"} {
				if _, err := r.CreateNamespace(t.Context(), trusteeapi.Namespace{Name: ns}); err != nil {
					t.Fatal(err)
				}
			}
			now := time.Now()
			s := New(db, limits.Defaults(), key, func() time.Time { return now })
			if _, err := RegisterFirst(t.Context(), db, key.Public(), now); err != nil {
				t.Fatal(err)
			}
			first, err := s.List(t.Context())
			if err != nil || len(first) != 1 {
				t.Fatalf("%+v, %v", first, err)
			}
			root := &Caller{"root", []string{first[0].ID}, []trusteeapi.Grant{{Role: trusteeapi.RoleAdmin, Namespace: trusteeapi.AllNamespaces}}}
			c, err := s.Add(t.Context(), trusteeapi.Credential{Kind: trusteeapi.CredentialToken, Grants: owner, Expires: now.Add(time.Minute)}, root)
			if err != nil {
				t.Fatal(err)
			}
			by, err := s.Bearer(t.Context(), c.Token)
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.end(s, c.ID, &now); err != nil {
				t.Fatal(err)
			}
			before := count(t, db)
			_, err = s.Add(t.Context(), trusteeapi.Credential{Kind: trusteeapi.CredentialToken, Grants: owner[:1]}, by)
			if !errors.Is(err, tc.want) {
				t.Errorf("add: %v, want %v", err, tc.want)
			}
			if given := count(t, db) - before; (given == 1) != (tc.want == nil) {
				t.Errorf("%d more credentials", given)
			}
			if err := s.Still(t.Context(), by); !errors.Is(err, tc.want) {
				t.Errorf("still: %v, want %v", err, tc.want)
			}
		})
	}
}

func count(t *testing.T, s store.Store) (n int) {
	t.Helper()
	if err := s.View(t.Context(), func(tx store.Tx) error {
		return tx.Scan(bucket, "", func(string, []byte) (bool, error) { n++; return true, nil })
	}); err != nil {
		t.Fatal(err)
	}
	return n
}
