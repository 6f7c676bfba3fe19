package vault

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
)

const (
	versions = "secret-versions"
	lasts    = "secret-last" // the highest number of a secret that was deleted
	// keep is how many versions of a secret there are at most; the oldest goes first.
	keep = 10
)

// Why there is nothing to release, for errors.Is.
var (
	ErrAbsent   = errors.New("no such secret or version")
	ErrDeleted  = errors.New("the version is deleted")
	ErrExpired  = errors.New("the version has expired")
	ErrNotNewer = errors.New("there is no newer version")
)

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC()
}

func (o *PutOptions) check(now time.Time) error {
	if err := trusteeapi.CheckLabels(o.Labels); err != nil {
		return fmt.Errorf("%w: %w", tenant.ErrInvalid, err)
	}
	if !o.Expires.IsZero() && !o.Expires.After(now) {
		return fmt.Errorf("%w: the new version would have expired at %s", tenant.ErrInvalid, o.Expires.Format(time.RFC3339))
	}
	return nil
}

// last gives the highest number that a secret has ever had.
func (v *Vault) last(ctx context.Context, ns, name string) (n uint64, err error) {
	err = v.store.View(ctx, func(tx store.Tx) error {
		n, err = lastIn(tx, ns, name)
		return err
	})
	return n, err
}

func lastIn(tx store.Tx, ns, name string) (uint64, error) {
	m, ok, err := store.GetJSON[trusteeapi.Resource](tx, tenant.Bucket(ns, metas), name)
	if err != nil {
		return 0, err
	}
	if ok {
		return m.Version, nil
	}
	b, err := tx.Get(tenant.Bucket(ns, lasts), name)
	if err != nil || b == nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("secret %s: last version is malformed", name)
	}
	return binary.BigEndian.Uint64(b), nil
}

// setLast remembers the number of a secret that is there no more.
func setLast(tx store.Tx, ns, name string, n uint64) error {
	if err := tenant.Added(tx, tenant.Bucket(ns, lasts)); err != nil {
		return err
	}
	return tx.Put(tenant.Bucket(ns, lasts), name, binary.BigEndian.AppendUint64(nil, n))
}

func metaOf(tx store.Tx, ns, name string) (*trusteeapi.Resource, error) {
	if _, err := tenant.GetNamespace(tx, ns); err != nil {
		return nil, err
	}
	m, ok, err := store.GetJSON[trusteeapi.Resource](tx, tenant.Bucket(ns, metas), name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("secret %s: %w", name, tenant.ErrNotFound)
	}
	return m, nil
}

// add puts a version, with its ciphertext, on top.
func (v *Vault) add(tx store.Tx, ns, name string, next trusteeapi.SecretVersion, box []byte, o PutOptions) (*trusteeapi.Resource, error) {
	m, ok, err := store.GetJSON[trusteeapi.Resource](tx, tenant.Bucket(ns, metas), name)
	if err != nil {
		return nil, err
	}
	newest := uint64(0)
	if ok {
		newest = m.Version
	}
	if o.IfVersion != nil && *o.IfVersion != newest {
		return nil, fmt.Errorf("secret %s: the newest version is %d, not %d: %w", name, newest, *o.IfVersion, tenant.ErrConflict)
	}
	out := &trusteeapi.Resource{Name: name, Created: next.Created}
	if !ok {
		if err := v.admit(tx, ns, name); err != nil {
			return nil, err
		}
	}
	if ok {
		out.Created = m.Created
		if err := v.retire(tx, ns, m, o.ExpirePrevious); err != nil {
			return nil, err
		}
	}
	if err := tenant.GrowBytes(tx, v.most, limits.SecretBytes, ns, tenant.Bucket(ns, content), len(box)); err != nil {
		return nil, err
	}
	if err := tx.Put(tenant.Bucket(ns, content), contentKey(name, next.Version), box); err != nil {
		return nil, err
	}
	out.Version = next.Version
	return out, save(tx, ns, out, &next)
}

// admit takes a secret of a name that there is not, or not any more. One that lives
// again has its number in its own record from now on.
func (v *Vault) admit(tx store.Tx, ns, name string) error {
	if err := tenant.Grow(tx, v.most, limits.Secrets, ns, tenant.Bucket(ns, metas)); err != nil {
		return err
	}
	old, err := tx.Get(tenant.Bucket(ns, lasts), name)
	if err != nil {
		return err
	}
	if old == nil {
		return tenant.Fits(tx, v.most, limits.DeletedSecrets, ns, tenant.Bucket(ns, lasts))
	}
	return errors.Join(tenant.Shrink(tx, tenant.Bucket(ns, lasts)), tx.Delete(tenant.Bucket(ns, lasts), name))
}

// retire has the versions so far expire, and drops the oldest ones too many.
func (v *Vault) retire(tx store.Tx, ns string, m *trusteeapi.Resource, at time.Time) error {
	all, err := versionsOf(tx, ns, m)
	if err != nil {
		return err
	}
	for i, x := range all {
		switch {
		case i >= keep-1:
			if err := forget(tx, ns, m.Name, x.Version); err != nil {
				return err
			}
			continue
		case !at.IsZero() && (x.Expires.IsZero() || x.Expires.After(at)):
			x.Expires = utc(at)
		case i > 0:
			continue
		}
		// The newest one's record may be only in the secret's own, as older stores have it.
		if err := store.PutJSON(tx, tenant.Bucket(ns, versions), contentKey(m.Name, x.Version), x); err != nil {
			return err
		}
	}
	return nil
}

// save writes a version's record and, if it is the newest, the secret's.
func save(tx store.Tx, ns string, m *trusteeapi.Resource, x *trusteeapi.SecretVersion) error {
	if err := store.PutJSON(tx, tenant.Bucket(ns, versions), contentKey(m.Name, x.Version), x); err != nil {
		return err
	}
	if x.Version != m.Version {
		return nil
	}
	m.Size, m.Modified, m.Expires, m.Deleted, m.Labels = x.Size, x.Created, x.Expires, x.Deleted, x.Labels
	if !x.Destroyed.IsZero() {
		m.Deleted = x.Destroyed
	}
	return store.PutJSON(tx, tenant.Bucket(ns, metas), m.Name, m)
}

func forget(tx store.Tx, ns, name string, version uint64) error {
	k := contentKey(name, version)
	return errors.Join(tenant.DeleteBytes(tx, tenant.Bucket(ns, content), k), tx.Delete(tenant.Bucket(ns, versions), k))
}

// versionOf gives one version's record. The newest one of a store from before
// there were records is described by the secret's own.
func versionOf(tx store.Tx, ns string, m *trusteeapi.Resource, version uint64) (*trusteeapi.SecretVersion, error) {
	x, ok, err := store.GetJSON[trusteeapi.SecretVersion](tx, tenant.Bucket(ns, versions), contentKey(m.Name, version))
	switch {
	case err != nil:
		return nil, err
	case ok:
		return x, nil
	case version == m.Version:
		return &trusteeapi.SecretVersion{Version: version, Size: m.Size, Created: m.Modified}, nil
	}
	return nil, nil
}

// versionsOf lists a secret's versions, the newest first.
func versionsOf(tx store.Tx, ns string, m *trusteeapi.Resource) ([]trusteeapi.SecretVersion, error) {
	newest, err := versionOf(tx, ns, m, m.Version)
	if err != nil {
		return nil, err
	}
	var out []trusteeapi.SecretVersion
	bucket, prefix := tenant.Bucket(ns, versions), m.Name+"@"
	var keys []string
	err = tx.Scan(bucket, prefix, func(k string, _ []byte) (bool, error) {
		if !strings.HasPrefix(k, prefix) {
			return false, nil
		}
		keys = append(keys, k)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		x, ok, err := store.GetJSON[trusteeapi.SecretVersion](tx, bucket, k)
		if err != nil {
			return nil, err
		}
		if ok && x.Version != m.Version {
			out = append(out, *x)
		}
	}
	out = append(out, *newest)
	slices.Reverse(out)
	return out, nil
}

// Want says which version is asked for: Version, or else the newest one that is
// above After.
type Want struct {
	Version, After uint64
}

// Sealed gives a version's metadata and ciphertext inside of a transaction. A
// deleted or expired newest version hides the older ones: whoever deletes a leaked
// secret must not bring back its predecessor by that.
func (v *Vault) Sealed(tx store.Tx, ns, name string, w Want) (*trusteeapi.SecretVersion, []byte, error) {
	m, ok, err := store.GetJSON[trusteeapi.Resource](tx, tenant.Bucket(ns, metas), name)
	switch {
	case err != nil:
		return nil, nil, err
	case !ok && w.After != 0 && w.Version == 0:
		return nil, nil, ErrNotNewer
	case !ok:
		return nil, nil, ErrAbsent
	}
	x, box, err := v.sealed(tx, ns, m, w)
	if w.After != 0 && w.Version == 0 && (errors.Is(err, ErrDeleted) || errors.Is(err, ErrExpired) || errors.Is(err, ErrAbsent)) {
		return nil, nil, ErrNotNewer // whoever waits for a new version waits for one that can be had
	}
	return x, box, err
}

func (v *Vault) sealed(tx store.Tx, ns string, m *trusteeapi.Resource, w Want) (*trusteeapi.SecretVersion, []byte, error) {
	version := w.Version
	if version == 0 {
		version = m.Version
		if version <= w.After {
			return nil, nil, ErrNotNewer
		}
	}
	x, err := versionOf(tx, ns, m, version)
	switch {
	case err != nil:
		return nil, nil, err
	case x == nil || !x.Destroyed.IsZero():
		return nil, nil, ErrAbsent
	case !x.Deleted.IsZero():
		return nil, nil, ErrDeleted
	case !x.Expires.IsZero() && !v.now().Before(x.Expires):
		return nil, nil, ErrExpired
	}
	box, err := tx.Get(tenant.Bucket(ns, content), contentKey(m.Name, version))
	if err != nil {
		return nil, nil, err
	}
	if box == nil {
		return nil, nil, fmt.Errorf("secret %s has no content of version %d", m.Name, version)
	}
	return x, slices.Clone(box), nil
}

// History gives a secret with its versions.
func (v *Vault) History(ctx context.Context, ns, name string) (out *trusteeapi.History, err error) {
	err = v.store.View(ctx, func(tx store.Tx) error {
		m, err := metaOf(tx, ns, name)
		if err != nil {
			return err
		}
		if m.Binding, err = tenant.BindingOf(tx, ns, name); err != nil {
			return err
		}
		out = &trusteeapi.History{Resource: *m}
		out.Versions, err = versionsOf(tx, ns, m)
		return err
	})
	return out, err
}

// Change deletes, undeletes, destroys, or sets the expiry of one version.
func (v *Vault) Change(ctx context.Context, ns, name string, version uint64, change string, expires time.Time) (out *trusteeapi.SecretVersion, err error) {
	err = v.store.Update(ctx, func(tx store.Tx) error {
		m, err := metaOf(tx, ns, name)
		if err != nil {
			return err
		}
		x, err := versionOf(tx, ns, m, version)
		if err != nil {
			return err
		}
		if x == nil {
			return fmt.Errorf("secret %s, version %d: %w", name, version, tenant.ErrNotFound)
		}
		if !x.Destroyed.IsZero() {
			return fmt.Errorf("secret %s, version %d was destroyed: %w", name, version, tenant.ErrConflict)
		}
		switch change {
		case trusteeapi.ChangeDelete:
			x.Deleted = v.now().UTC()
		case trusteeapi.ChangeUndelete:
			x.Deleted = time.Time{}
		case trusteeapi.ChangeExpiry:
			x.Expires = utc(expires)
		case trusteeapi.ChangeDestroy:
			x.Destroyed = v.now().UTC()
			if err := tenant.DeleteBytes(tx, tenant.Bucket(ns, content), contentKey(name, version)); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: change %.40q", tenant.ErrInvalid, change)
		}
		out = x
		return save(tx, ns, m, x)
	})
	if err != nil {
		return nil, err
	}
	if change == trusteeapi.ChangeUndelete || change == trusteeapi.ChangeExpiry {
		v.watch.changed(ns, name)
	}
	return out, nil
}

// restorable gives a version whose content a new one may have.
func restorable(tx store.Tx, ns, name string, from uint64) (*trusteeapi.SecretVersion, error) {
	m, err := metaOf(tx, ns, name)
	if err != nil {
		return nil, err
	}
	x, err := versionOf(tx, ns, m, from)
	switch {
	case err != nil:
		return nil, err
	case x == nil:
		return nil, fmt.Errorf("secret %s, version %d: %w", name, from, tenant.ErrNotFound)
	case !x.Destroyed.IsZero() || !x.Deleted.IsZero():
		return nil, fmt.Errorf("secret %s, version %d is deleted: %w", name, from, tenant.ErrConflict)
	}
	return x, nil
}

// Rollback makes a new version with the content and labels of an older one.
func (v *Vault) Rollback(ctx context.Context, ns, name string, from uint64, actor string) (*trusteeapi.Resource, error) {
	var x *trusteeapi.SecretVersion
	var box []byte
	err := v.store.View(ctx, func(tx store.Tx) (err error) {
		if x, err = restorable(tx, ns, name, from); err != nil {
			return err
		}
		b, err := tx.Get(tenant.Bucket(ns, content), contentKey(name, from))
		box = slices.Clone(b)
		return err
	})
	if err != nil {
		return nil, err
	}
	secret, err := v.Open(ctx, ns, name, from, box)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	return v.Put(ctx, ns, name, secret, PutOptions{Actor: actor, Labels: x.Labels, restoredFrom: from})
}
