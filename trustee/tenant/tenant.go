// Package tenant keeps what owners have registered: namespaces, owners' keys,
// seals, bindings of secrets, reference values, appraisal policies and roots.
//
// Invariants: nothing crosses namespaces; a seal is registered only with a good
// signature of a key that the namespace knows, and counts only as long as it
// knows it; a root of simulated TPMs is never one of a production namespace.
//
// Trust zone: trustee.
package tenant

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
)

// Kinds of errors, for errors.Is.
var (
	ErrNotFound = errors.New("not found")
	ErrConflict = errors.New("conflict")
	ErrInvalid  = errors.New("invalid")
	ErrLimit    = limits.Err
)

func invalid(err error) error { return fmt.Errorf("%w: %w", ErrInvalid, err) }

const maxUnproven = 64 // names in allow_unproven

const namespaces = "namespaces"

// Bucket gives the name of a namespace's bucket. A name has no slash, so that
// no two namespaces meet.
func Bucket(ns, what string) string { return "ns/" + ns + "/" + what }

// Audience gives the aud of tokens of a namespace.
func Audience(ns string) string { return "coffer-trustee/ns/" + ns }

// Registry reads and changes what is registered.
type Registry struct {
	store  store.Store
	limits limits.Set
	now    func() time.Time
}

// New makes a Registry and the default namespace, which is production.
func New(ctx context.Context, s store.Store, most limits.Set, now func() time.Time) (*Registry, error) {
	if err := most.Validate(); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	r := &Registry{s, most, now}
	if _, err := r.CreateNamespace(ctx, trusteeapi.Namespace{Name: trusteeapi.DefaultNamespace}); err != nil && !errors.Is(err, ErrConflict) {
		return nil, err
	}
	return r, nil
}

// CreateNamespace makes a namespace. One with the same choices is given as it is.
func (r *Registry) CreateNamespace(ctx context.Context, n trusteeapi.Namespace) (*trusteeapi.Namespace, error) {
	if err := trusteeapi.CheckNamespace(n.Name); err != nil {
		return nil, invalid(err)
	}
	if err := checkUnproven(n.AllowUnproven); err != nil {
		return nil, invalid(err)
	}
	if n.AppraisalPolicy != "" {
		return nil, invalid(errors.New("appraisal_policy: a new namespace has no policies yet"))
	}
	if n.TrustDomain != "" {
		return nil, invalid(errors.New("trust_domain: it is set on a namespace that is there"))
	}
	n.Created = r.now().UTC()
	var out *trusteeapi.Namespace
	err := r.store.Update(ctx, func(tx store.Tx) error {
		have, ok, err := store.GetJSON[trusteeapi.Namespace](tx, namespaces, n.Name)
		if err != nil {
			return err
		}
		if ok {
			if have.Simulated != n.Simulated || have.InsecureAllowDebug != n.InsecureAllowDebug {
				return fmt.Errorf("namespace %s exists with simulated=%t, insecure_allow_debug=%t, which is for good: %w",
					n.Name, have.Simulated, have.InsecureAllowDebug, ErrConflict)
			}
			out = have
			return nil
		}
		if err := wasDeleted(tx, n.Name); err != nil {
			return err
		}
		if err := Room(tx, r.limits, limits.Namespaces, "", namespaces); err != nil {
			return err
		}
		out = &n
		return store.PutJSON(tx, namespaces, n.Name, n)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// SetAllowUnproven replaces the list of what counts although no outside vector
// has shown it to be right.
func (r *Registry) SetAllowUnproven(ctx context.Context, ns string, names []string) (out *trusteeapi.Namespace, err error) {
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	if err := checkUnproven(names); err != nil {
		return nil, invalid(err)
	}
	err = r.update(ctx, ns, func(tx store.Tx, n *trusteeapi.Namespace) error {
		n.AllowUnproven, out = names, n
		if err := store.PutJSON(tx, namespaces, ns, n); err != nil {
			return err
		}
		return bump(tx, ns)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// SetChannelBinding says whether evidence must cover the connection that brings it.
func (r *Registry) SetChannelBinding(ctx context.Context, ns string, required bool) (out *trusteeapi.Namespace, err error) {
	err = r.update(ctx, ns, func(tx store.Tx, n *trusteeapi.Namespace) error {
		n.RequireChannelBinding, out = required, n
		if err := store.PutJSON(tx, namespaces, ns, n); err != nil {
			return err
		}
		return bump(tx, ns)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func checkUnproven(names []string) error {
	if len(names) > maxUnproven {
		return fmt.Errorf("allow_unproven: %d names, at most %d", len(names), maxUnproven)
	}
	for _, n := range names {
		if !teeRE.MatchString(n) {
			return fmt.Errorf("allow_unproven: %.80q is no verifier's or version's name", n)
		}
	}
	return nil
}

// Namespaces lists the namespaces.
func (r *Registry) Namespaces(ctx context.Context) (out []trusteeapi.Namespace, err error) {
	err = r.store.View(ctx, func(tx store.Tx) error {
		out, err = store.List[trusteeapi.Namespace](tx, namespaces)
		return err
	})
	return out, err
}

// Namespace gives one namespace.
func (r *Registry) Namespace(ctx context.Context, name string) (out *trusteeapi.Namespace, err error) {
	err = r.store.View(ctx, func(tx store.Tx) error {
		out, err = GetNamespace(tx, name)
		return err
	})
	return out, err
}

// Exists gives ErrNotFound where there is no such namespace. Every request asks, and
// most want no more of it.
func (r *Registry) Exists(ctx context.Context, name string) error {
	return r.store.View(ctx, func(tx store.Tx) error { return exists(tx, name) })
}

func exists(tx store.Tx, name string) error {
	switch v, err := tx.Get(namespaces, name); {
	case err != nil:
		return err
	case v == nil:
		return noNamespace(name)
	}
	return nil
}

func noNamespace(name string) error { return fmt.Errorf("namespace %.80q: %w", name, ErrNotFound) }

// GetNamespace is Namespace inside of a transaction.
func GetNamespace(tx store.Tx, name string) (*trusteeapi.Namespace, error) {
	n, ok, err := store.GetJSON[trusteeapi.Namespace](tx, namespaces, name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, noNamespace(name)
	}
	return n, nil
}

// Room reports whether a bucket takes one more key; where is the namespace of
// which it is, or "".
func Room(tx store.Tx, most limits.Set, name limits.Name, where, bucket string) error {
	most, err := Limits(tx, most, where)
	if err != nil {
		return err
	}
	n := 1
	err = tx.Scan(bucket, "", func(string, []byte) (bool, error) { n++; return n <= most[name], nil })
	if err != nil {
		return err
	}
	return most.Check(name, where, n)
}

// room is Room for a bucket of a namespace.
func (r *Registry) room(tx store.Tx, name limits.Name, ns, what string) error {
	return Room(tx, r.limits, name, ns, Bucket(ns, what))
}

// roomFor is room for one key, which may be there already.
func (r *Registry) roomFor(tx store.Tx, name limits.Name, ns, what, key string) error {
	switch have, err := tx.Get(Bucket(ns, what), key); {
	case err != nil:
		return err
	case have != nil:
		return nil
	}
	return r.room(tx, name, ns, what)
}

// generation changes with whatever evidence is appraised with, so that a prepared
// verifier knows when it is out of date, on every replica.
func generation(tx store.Tx, ns string) (uint64, error) {
	return Generation(tx, ns, "trust-generation")
}

func bump(tx store.Tx, ns string) error { return Bump(tx, ns, "trust-generation") }

// Generation gives a mark of a namespace that Bump has set; 0: never.
func Generation(tx store.Tx, ns, mark string) (uint64, error) {
	b, err := tx.Get(Bucket(ns, "meta"), mark)
	if err != nil || b == nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("namespace %s: %s is malformed", ns, mark)
	}
	return binary.BigEndian.Uint64(b), nil
}

// Bump gives a mark a value that it never had. It is no count: after a database was put
// back to an earlier state the next change must not bring a value that somebody knows.
func Bump(tx store.Tx, ns, mark string) error {
	var b [8]byte
	for binary.BigEndian.Uint64(b[:]) == 0 {
		rand.Read(b[:])
	}
	return tx.Put(Bucket(ns, "meta"), mark, b[:])
}

// update runs fn for a namespace that exists.
func (r *Registry) update(ctx context.Context, ns string, fn func(store.Tx, *trusteeapi.Namespace) error) error {
	return r.store.Update(ctx, func(tx store.Tx) error {
		n, err := GetNamespace(tx, ns)
		if err != nil {
			return err
		}
		return fn(tx, n)
	})
}

// list gives a bucket of a namespace that exists.
func list[T any](ctx context.Context, r *Registry, ns, what string) (out []T, err error) {
	err = r.store.View(ctx, func(tx store.Tx) error {
		if _, err := GetNamespace(tx, ns); err != nil {
			return err
		}
		out, err = store.List[T](tx, Bucket(ns, what))
		return err
	})
	return out, err
}

// remove deletes one key of a namespace's bucket.
func (r *Registry) remove(ctx context.Context, ns, what, key string, trust bool) error {
	return r.update(ctx, ns, func(tx store.Tx, _ *trusteeapi.Namespace) error {
		v, err := tx.Get(Bucket(ns, what), key)
		if err != nil {
			return err
		}
		if v == nil {
			return fmt.Errorf("%s %.128q: %w", what, key, ErrNotFound)
		}
		if trust {
			if err := bump(tx, ns); err != nil {
				return err
			}
		}
		return tx.Delete(Bucket(ns, what), key)
	})
}
