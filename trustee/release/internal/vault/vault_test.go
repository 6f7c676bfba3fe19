package vault

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/bolt"
	"github.com/cofferproject/coffer/trustee/store/storetest"
	"github.com/cofferproject/coffer/trustee/tenant"
)

func newVault(t *testing.T, most limits.Set) *Vault {
	t.Helper()
	dir := t.TempDir()
	s, err := bolt.Open(filepath.Join(dir, "db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	kek, err := keyring.CreateFileKEK(filepath.Join(dir, "kek"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tenant.New(t.Context(), s, most, time.Now); err != nil {
		t.Fatal(err)
	}
	return New(s, kek, most, time.Now)
}

// open gives the content of a version, or why there is none.
func (v *Vault) open(t *testing.T, name string, w Want) (string, error) {
	t.Helper()
	var x *trusteeapi.SecretVersion
	var box []byte
	err := v.store.View(t.Context(), func(tx store.Tx) (err error) {
		x, box, err = v.Sealed(tx, "default", name, w)
		return err
	})
	if err != nil {
		return "", err
	}
	b, err := v.Open(t.Context(), "default", name, x.Version, box)
	return string(b), err
}

// A store from before there were records of versions has one version of each secret,
// described by the secret's own record alone.
func TestOlderStore(t *testing.T) {
	v := newVault(t, limits.Defaults())
	const name = "a/b/c"
	box, err := keyring.Encrypt(t.Context(), v.kek, place("default", name, 7), []byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	err = v.store.Update(t.Context(), func(tx store.Tx) error {
		return errors.Join(
			tx.Put(tenant.Bucket("default", content), contentKey(name, 7), box),
			tx.Put(tenant.Bucket("default", metas), name, []byte(`{"name":"a/b/c","version":7,"size":3,"created":"2026-01-01T00:00:00Z","modified":"2026-02-01T00:00:00Z"}`)))
	})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := v.open(t, name, Want{}); err != nil || s != "old" {
		t.Errorf("%q, %v", s, err)
	}
	if r, err := v.Put(t.Context(), "default", name, []byte("new"), PutOptions{}); err != nil || r.Version != 8 {
		t.Fatalf("%+v, %v", r, err)
	}
	if s, err := v.open(t, name, Want{Version: 7}); err != nil || s != "old" {
		t.Errorf("the old version after a new one: %q, %v", s, err)
	}
	h, err := v.History(t.Context(), "default", name)
	if err != nil || len(h.Versions) != 2 || h.Versions[1].Version != 7 || h.Versions[1].Size != 3 {
		t.Errorf("%+v, %v", h, err)
	}
}

// Two who put at once both get a number; of two who say what they have seen, one.
func TestPutsAtOnce(t *testing.T) {
	v := newVault(t, limits.Defaults())
	const n = 8
	got := make(chan error, 2*n)
	zero := uint64(0)
	for i := range n {
		go func() {
			_, err := v.Put(t.Context(), "default", "a/b/c", fmt.Appendf(nil, "%d", i), PutOptions{})
			got <- err
		}()
		go func() {
			_, err := v.Put(t.Context(), "default", "a/b/once", fmt.Appendf(nil, "%d", i), PutOptions{IfVersion: &zero})
			got <- err
		}()
	}
	conflicts := 0
	for range 2 * n {
		switch err := <-got; {
		case errors.Is(err, tenant.ErrConflict):
			conflicts++
		case err != nil:
			t.Error(err)
		}
	}
	if conflicts != n-1 {
		t.Errorf("%d conflicts, want %d", conflicts, n-1)
	}
	if h, err := v.History(t.Context(), "default", "a/b/c"); err != nil || h.Version != n || len(h.Versions) != n {
		t.Errorf("%+v, %v", h, err)
	}
}

// What was deleted or destroyed while it is rolled back to stays so, also where another
// put has the rollback try again.
func TestRollbackUndoesNoDeletion(t *testing.T) {
	const name = "a/b/c"
	var v *Vault
	put := func(s string) error {
		_, err := v.Put(t.Context(), "default", name, []byte(s), PutOptions{})
		return err
	}
	change := func(how string) error {
		_, err := v.Change(t.Context(), "default", name, 1, how, time.Time{})
		return err
	}
	for what, tc := range map[string]struct {
		then func() error
		want error
	}{
		"deleted":               {func() error { return change(trusteeapi.ChangeDelete) }, tenant.ErrConflict},
		"destroyed":             {func() error { return change(trusteeapi.ChangeDestroy) }, tenant.ErrConflict},
		"destroyed, with a put": {func() error { return errors.Join(change(trusteeapi.ChangeDestroy), put("three")) }, tenant.ErrConflict},
		"all of it":             {func() error { return v.Delete(t.Context(), "default", name) }, tenant.ErrNotFound},
		"all of it, with a put": {func() error { return errors.Join(v.Delete(t.Context(), "default", name), put("three")) }, tenant.ErrNotFound},
		"another put":           {func() error { return put("three") }, nil},
	} {
		t.Run(what, func(t *testing.T) {
			v = newVault(t, limits.Defaults())
			if err := errors.Join(put("one"), put("two")); err != nil {
				t.Fatal(err)
			}
			b := &storetest.Between{Store: v.store}
			v.store = b
			b.Arm("", func() {
				if err := tc.then(); err != nil {
					t.Error(err)
				}
			})
			_, err := v.Rollback(t.Context(), "default", name, 1, "actor")
			if !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			if s, _ := v.open(t, name, Want{}); (s == "one") != (tc.want == nil) {
				t.Errorf("the newest is %q", s)
			}
		})
	}
}

// The numbers of deleted secrets are remembered within a bound, and a name that
// lives again takes no room there.
func TestDeletedNamesAreBounded(t *testing.T) {
	most := limits.Defaults()
	most[limits.DeletedSecrets] = 3
	v := newVault(t, most)
	put := func(name string) error {
		_, err := v.Put(t.Context(), "default", name, []byte("x"), PutOptions{})
		return err
	}
	for i := range 3 {
		name := fmt.Sprintf("a/b/%d", i)
		if err := errors.Join(put(name), v.Delete(t.Context(), "default", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := put("a/b/new"); !errors.Is(err, limits.Err) {
		t.Errorf("a fourth name: %v", err)
	}
	if err := put("a/b/0"); err != nil {
		t.Errorf("a name that lives again: %v", err)
	}
	if err := put("a/b/new"); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if err := v.Delete(t.Context(), "default", "a/b/new"); err != nil {
		t.Fatal(err)
	}
	if s, err := v.open(t, "a/b/new", Want{}); !errors.Is(err, ErrAbsent) {
		t.Errorf("%q, %v", s, err)
	}
}

func TestWaitersAreBounded(t *testing.T) {
	v := newVault(t, limits.Defaults())
	var leave []func()
	for i := range maxWaitingIn {
		_, l, err := v.Watch("default", fmt.Sprintf("a/b/%d", i%(maxWaitingIn/maxWaitingOf)))
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		leave = append(leave, l)
	}
	if _, _, err := v.Watch("default", "a/b/another"); !errors.Is(err, ErrBusy) {
		t.Errorf("one too many in a namespace: %v", err)
	}
	ch, l, err := v.Watch("other", "a/b/0")
	if err != nil {
		t.Fatalf("another namespace: %v", err)
	}
	leave = append(leave, l)
	v.watch.changed("other", "a/b/0")
	<-ch
	for _, l := range leave {
		l()
	}
	if v.Waiting() != 0 || len(v.watch.at) != 0 || len(v.watch.in) != 0 {
		t.Errorf("%d wait, %d secrets, %d namespaces", v.Waiting(), len(v.watch.at), len(v.watch.in))
	}
}
