// Package vault keeps secrets. It lies below package release, so that nothing
// but the gate can read one: Go refuses the import everywhere else.
//
// Invariants: a secret's content is in the store only encrypted, bound to its
// namespace, name and version; every put makes a new version.
//
// Trust zone: trustee.
package vault

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
)

const (
	metas   = "secrets"
	content = "secret-content"
)

// Vault keeps secrets in a store.
type Vault struct {
	store store.Store
	kek   keyring.KEK
	most  limits.Set
	now   func() time.Time
}

// New makes a Vault.
func New(s store.Store, kek keyring.KEK, most limits.Set, now func() time.Time) *Vault {
	return &Vault{s, kek, most, now}
}

func contentKey(name string, version uint64) string {
	return name + "@" + fmt.Sprintf("%020d", version)
}

func place(ns, name string, version uint64) string {
	return "secret/" + ns + "/" + name + "@" + strconv.FormatUint(version, 10)
}

// Put stores a new version. The version is settled before encrypting, because
// the ciphertext is bound to it; two puts at once settle by trying again.
func (v *Vault) Put(ctx context.Context, ns, name string, secret []byte) (*trusteeapi.Resource, error) {
	for {
		m, err := v.meta(ctx, ns, name)
		if err != nil {
			return nil, err
		}
		now := v.now().UTC()
		next := trusteeapi.Resource{Name: name, Version: 1, Size: len(secret), Created: now, Modified: now}
		last := uint64(0)
		if m != nil {
			last = m.Version
			next.Version, next.Created = last+1, m.Created
		}
		box, err := keyring.Encrypt(ctx, v.kek, place(ns, name, next.Version), secret)
		if err != nil {
			return nil, fmt.Errorf("storing secret: %w", err)
		}
		raced := false
		err = v.store.Update(ctx, func(tx store.Tx) error {
			raced = false
			if _, err := tenant.GetNamespace(tx, ns); err != nil {
				return err
			}
			have, ok, err := store.GetJSON[trusteeapi.Resource](tx, tenant.Bucket(ns, metas), name)
			if err != nil {
				return err
			}
			if ok && have.Version != last || !ok && last != 0 {
				raced = true
				return nil
			}
			if last == 0 {
				if err := tenant.Room(tx, v.most, limits.Secrets, ns, tenant.Bucket(ns, metas)); err != nil {
					return err
				}
			} else {
				if err := tx.Delete(tenant.Bucket(ns, content), contentKey(name, last)); err != nil {
					return err
				}
			}
			if err := tx.Put(tenant.Bucket(ns, content), contentKey(name, next.Version), box); err != nil {
				return err
			}
			return store.PutJSON(tx, tenant.Bucket(ns, metas), name, next)
		})
		if err != nil {
			return nil, err
		}
		if !raced {
			return &next, nil
		}
	}
}

func (v *Vault) meta(ctx context.Context, ns, name string) (m *trusteeapi.Resource, err error) {
	err = v.store.View(ctx, func(tx store.Tx) error {
		var ok bool
		m, ok, err = store.GetJSON[trusteeapi.Resource](tx, tenant.Bucket(ns, metas), name)
		if !ok {
			m = nil
		}
		return err
	})
	return m, err
}

// Sealed gives a secret's metadata and ciphertext inside of a transaction; nil
// where there is none.
func (v *Vault) Sealed(tx store.Tx, ns, name string) (*trusteeapi.Resource, []byte, error) {
	m, ok, err := store.GetJSON[trusteeapi.Resource](tx, tenant.Bucket(ns, metas), name)
	if err != nil || !ok {
		return nil, nil, err
	}
	box, err := tx.Get(tenant.Bucket(ns, content), contentKey(name, m.Version))
	if err != nil {
		return nil, nil, err
	}
	if box == nil {
		return nil, nil, fmt.Errorf("secret %s has no content of version %d", name, m.Version)
	}
	return m, slices.Clone(box), nil
}

// Open decrypts what Sealed gave.
func (v *Vault) Open(ctx context.Context, ns string, m *trusteeapi.Resource, box []byte) ([]byte, error) {
	return keyring.Decrypt(ctx, v.kek, place(ns, m.Name, m.Version), box)
}

// Delete removes a secret and its binding.
func (v *Vault) Delete(ctx context.Context, ns, name string) error {
	return v.store.Update(ctx, func(tx store.Tx) error {
		if _, err := tenant.GetNamespace(tx, ns); err != nil {
			return err
		}
		m, ok, err := store.GetJSON[trusteeapi.Resource](tx, tenant.Bucket(ns, metas), name)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("secret %s: %w", name, tenant.ErrNotFound)
		}
		if err := tx.Delete(tenant.Bucket(ns, content), contentKey(name, m.Version)); err != nil {
			return err
		}
		if err := tx.Delete(tenant.Bucket(ns, metas), name); err != nil {
			return err
		}
		return tenant.DropBinding(tx, ns, name)
	})
}

// List gives the metadata of a namespace's secrets with their bindings.
func (v *Vault) List(ctx context.Context, ns string) (out []trusteeapi.Resource, err error) {
	err = v.store.View(ctx, func(tx store.Tx) error {
		if _, err := tenant.GetNamespace(tx, ns); err != nil {
			return err
		}
		if out, err = store.List[trusteeapi.Resource](tx, tenant.Bucket(ns, metas)); err != nil {
			return err
		}
		for i := range out {
			if out[i].Binding, err = tenant.BindingOf(tx, ns, out[i].Name); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}
