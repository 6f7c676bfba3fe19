package vault

import (
	"context"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// outside has where secrets live that are in another store. A name is in it or in
// metas, never in both: then nobody could say which of two secrets a guest gets.
const outside = "outside-secrets"

// Map says where a secret lives. What was said of its name before is replaced.
func (v *Vault) Map(ctx context.Context, ns string, m trusteeapi.OutsideSecret) (*trusteeapi.OutsideSecret, error) {
	m.Created, m.Binding = v.now().UTC(), nil
	err := v.store.Update(ctx, func(tx store.Tx) error {
		if _, err := tenant.GetNamespace(tx, ns); err != nil {
			return err
		}
		stored, err := tx.Get(tenant.Bucket(ns, metas), m.Name)
		if err != nil {
			return err
		}
		if stored != nil {
			return fmt.Errorf("secret %s is stored here: delete it first: %w", m.Name, tenant.ErrConflict)
		}
		have, err := tx.Get(tenant.Bucket(ns, outside), m.Name)
		if err != nil {
			return err
		}
		if have == nil {
			if err := tenant.Grow(tx, v.most, limits.OutsideSecrets, ns, tenant.Bucket(ns, outside)); err != nil {
				return err
			}
		}
		return store.PutJSON(tx, tenant.Bucket(ns, outside), m.Name, m)
	})
	if err != nil {
		return nil, err
	}
	v.watch.changed(ns, m.Name)
	return &m, nil
}

// Outside says where a secret lives inside of a transaction; nil: not outside.
func (v *Vault) Outside(tx store.Tx, ns, name string) (*trusteeapi.OutsideSecret, error) {
	m, _, err := store.GetJSON[trusteeapi.OutsideSecret](tx, tenant.Bucket(ns, outside), name)
	return m, err
}

// notOutside refuses to store a secret of a name that lives elsewhere.
func notOutside(tx store.Tx, ns, name string) error {
	have, err := tx.Get(tenant.Bucket(ns, outside), name)
	if err == nil && have != nil {
		err = fmt.Errorf("secret %s is mapped to a store outside: remove that first: %w", name, tenant.ErrConflict)
	}
	return err
}

// Unmap forgets where a secret lives, together with its binding.
func (v *Vault) Unmap(ctx context.Context, ns, name string) error {
	err := v.store.Update(ctx, func(tx store.Tx) error {
		if _, err := tenant.GetNamespace(tx, ns); err != nil {
			return err
		}
		have, err := tx.Get(tenant.Bucket(ns, outside), name)
		if err != nil {
			return err
		}
		if have == nil {
			return fmt.Errorf("secret %s is not mapped to a store outside: %w", name, tenant.ErrNotFound)
		}
		if err := errors.Join(tenant.Shrink(tx, tenant.Bucket(ns, outside)), tx.Delete(tenant.Bucket(ns, outside), name)); err != nil {
			return err
		}
		return tenant.DropBinding(tx, ns, name)
	})
	if err == nil {
		v.watch.changed(ns, name)
	}
	return err
}

// Mapped lists the secrets of a namespace that live outside, with their bindings.
func (v *Vault) Mapped(ctx context.Context, ns string) (out []trusteeapi.OutsideSecret, err error) {
	err = v.store.View(ctx, func(tx store.Tx) error {
		if _, err := tenant.GetNamespace(tx, ns); err != nil {
			return err
		}
		if out, err = store.List[trusteeapi.OutsideSecret](tx, tenant.Bucket(ns, outside)); err != nil {
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
