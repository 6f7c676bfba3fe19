// Package vault keeps secrets. It lies below package release, so that nothing
// but the gate can read one: Go refuses the import everywhere else.
//
// Invariants: a secret's content is in the store only encrypted, bound to its
// namespace, name and version; every put makes a new version, and no number is
// ever used twice.
//
// Trust zone: trustee.
package vault

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
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
	watch *watch
}

// New makes a Vault.
func New(s store.Store, kek keyring.KEK, most limits.Set, now func() time.Time) *Vault {
	return &Vault{s, kek, most, now, newWatch()}
}

func contentKey(name string, version uint64) string {
	return name + "@" + fmt.Sprintf("%020d", version)
}

func place(ns, name string, version uint64) string {
	return "secret/" + ns + "/" + name + "@" + strconv.FormatUint(version, 10)
}

// PlaceOf is place by where the store has the content.
func PlaceOf(bucket, key string) (string, bool) {
	rest, ok := strings.CutPrefix(bucket, "ns/")
	ns, what, found := strings.Cut(rest, "/")
	name, number, versioned := strings.Cut(key, "@")
	version, err := strconv.ParseUint(number, 10, 64)
	if !ok || !found || what != content || !versioned || err != nil || contentKey(name, version) != key {
		return "", false
	}
	return place(ns, name, version), true
}

// PutOptions say more about a new version.
type PutOptions struct {
	Actor   string
	Expires time.Time // zero: never
	Labels  map[string]string
	// ExpirePrevious is when the older versions expire that would live longer.
	ExpirePrevious time.Time
	// IfVersion, if set, must be the newest version's number, 0 if there is none.
	IfVersion *uint64

	restoredFrom uint64
}

// Put stores a new version. The version is settled before encrypting, because
// the ciphertext is bound to it; two puts at once settle by trying again.
func (v *Vault) Put(ctx context.Context, ns, name string, secret []byte, o PutOptions) (*trusteeapi.Resource, error) {
	if err := o.check(v.now()); err != nil {
		return nil, err
	}
	for {
		last, err := v.last(ctx, ns, name)
		if err != nil {
			return nil, err
		}
		box, err := keyring.Encrypt(ctx, v.kek, place(ns, name, last+1), secret)
		if err != nil {
			return nil, fmt.Errorf("storing secret: %w", err)
		}
		next := trusteeapi.SecretVersion{
			Version: last + 1, Size: len(secret), Created: v.now().UTC(), Actor: o.Actor, Expires: utc(o.Expires),
			RestoredFrom: o.restoredFrom, Labels: o.Labels,
		}
		var out *trusteeapi.Resource
		err = v.store.Update(ctx, func(tx store.Tx) error {
			out = nil
			if _, err := tenant.GetNamespace(tx, ns); err != nil {
				return err
			}
			if err := notOutside(tx, ns, name); err != nil {
				return err
			}
			if o.restoredFrom != 0 {
				// Whoever has deleted it since it was read was told that it is gone.
				if _, err := restorable(tx, ns, name, o.restoredFrom); err != nil {
					return err
				}
			}
			now, err := lastIn(tx, ns, name)
			if err != nil || now != last {
				return err
			}
			out, err = v.add(tx, ns, name, next, box, o)
			return err
		})
		if err != nil {
			return nil, err
		}
		if out != nil {
			v.watch.changed(ns, name)
			return out, nil
		}
	}
}

// Open decrypts what Sealed gave.
func (v *Vault) Open(ctx context.Context, ns, name string, version uint64, box []byte) ([]byte, error) {
	return keyring.Decrypt(ctx, v.kek, place(ns, name, version), box)
}

// Same reports whether the newest version that can be had of a secret is this.
func (v *Vault) Same(ctx context.Context, ns, name string, secret []byte) (bool, error) {
	var x *trusteeapi.SecretVersion
	var box []byte
	err := v.store.View(ctx, func(tx store.Tx) (err error) {
		x, box, err = v.Sealed(tx, ns, name, Want{})
		box = slices.Clone(box)
		return err
	})
	if errors.Is(err, ErrAbsent) || errors.Is(err, ErrDeleted) || errors.Is(err, ErrExpired) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	have, err := v.Open(ctx, ns, name, x.Version, box)
	if err != nil {
		return false, err
	}
	defer clear(have)
	return subtle.ConstantTimeCompare(have, secret) == 1, nil
}

// Delete removes a secret with all its versions and its binding.
func (v *Vault) Delete(ctx context.Context, ns, name string) error {
	err := v.store.Update(ctx, func(tx store.Tx) error {
		m, err := metaOf(tx, ns, name)
		if err != nil {
			return err
		}
		// Its numbers are not used again: an old ciphertext of the same place would
		// pass for the new one's.
		if err := setLast(tx, ns, name, m.Version); err != nil {
			return err
		}
		all, err := versionsOf(tx, ns, m)
		if err != nil {
			return err
		}
		for _, x := range all {
			if err := forget(tx, ns, name, x.Version); err != nil {
				return err
			}
		}
		if err := errors.Join(tenant.Shrink(tx, tenant.Bucket(ns, metas)), tx.Delete(tenant.Bucket(ns, metas), name)); err != nil {
			return err
		}
		return tenant.DropBinding(tx, ns, name)
	})
	if err == nil {
		v.watch.changed(ns, name)
	}
	return err
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
