// Package respolicy keeps resource policies in versions and asks them: policies in
// Rego that decide beside the bindings what may be done with secrets, by resource
// and method (tee/policy/SPEC.md, docs/trustee/policies.md).
//
// Invariants: all policies that select a request must allow it, so that one more
// can only narrow; what fails, takes too long or does not compile denies; a version
// is compiled once and never on a request; namespaces share nothing.
//
// Trust zone: trustee.
package respolicy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Buckets are those of a namespace, to be emptied when it is deleted.
func Buckets() []string { return []string{current, versions} }

// ReasonDenied says that a resource policy does not allow it. docs/denials.md
// explains it.
const ReasonDenied denial.Reason = "resource-policy-denied"

// Limits of each namespace.
const (
	maxPolicies = 64
	maxNames    = 256 // with those that were deleted, whose versions stay
	keep        = 32  // versions of each
)

const (
	current  = "resource-policies"
	versions = "resource-policy-versions"
	meta     = "meta"
	mark     = "resource-policy-generation"
)

// Policies are the resource policies of all namespaces.
type Policies struct {
	store store.Store
	now   func() time.Time

	mu   sync.Mutex
	sets map[string]*prepared
}

// prepared is a namespace's newest compiled set.
type prepared struct {
	making sync.Mutex // held while one is compiled
	mu     sync.Mutex
	set    *Set // nil: none yet
}

func (p *prepared) get() *Set {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.set
}

func (p *prepared) put(s *Set) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set = s
}

// New makes Policies on a store.
func New(s store.Store, now func() time.Time) *Policies {
	return &Policies{store: s, now: now, sets: map[string]*prepared{}}
}

func versionKey(name string, version uint64) string { return fmt.Sprintf("%s@%020d", name, version) }

// Put registers a new version of a policy, if it compiles; the same one again
// changes nothing.
func (p *Policies) Put(ctx context.Context, ns string, in trusteeapi.ResourcePolicy, actor string) (*trusteeapi.ResourcePolicy, error) {
	return p.PutOver(ctx, ns, in, actor, func(*trusteeapi.ResourcePolicy) error { return nil })
}

// PutOver is Put that changes nothing if may gives an error of the policy in force of that
// name. may is asked inside of the transaction, and not where there is none; its error is
// given as it is.
func (p *Policies) PutOver(ctx context.Context, ns string, in trusteeapi.ResourcePolicy, actor string, may func(have *trusteeapi.ResourcePolicy) error) (out *trusteeapi.ResourcePolicy, err error) {
	if err := in.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", tenant.ErrInvalid, err)
	}
	c, err := policy.CompileResource(in.Name, in.Text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tenant.ErrInvalid, err)
	}
	slices.Sort(in.Methods)
	next := trusteeapi.ResourcePolicy{
		Name: in.Name, Resources: in.Resources, Methods: in.Methods, Digest: c.Digest(), Text: in.Text, Actor: actor, Registered: p.now().UTC(),
	}
	err = p.store.Update(ctx, func(tx store.Tx) error {
		have, err := p.live(tx, ns, in.Name)
		if err != nil {
			return err
		}
		if have != nil {
			if err := may(have); err != nil {
				return err
			}
		}
		if have != nil && have.Digest == next.Digest && have.Resources == next.Resources && slices.Equal(have.Methods, next.Methods) {
			out = have
			return nil
		}
		if err := room(tx, ns, in.Name, have != nil); err != nil {
			return err
		}
		all, err := history(tx, ns, in.Name)
		if err != nil {
			return err
		}
		next.Version = 1
		if len(all) > 0 {
			next.Version = all[0].Version + 1
		}
		for i, v := range all {
			if i >= keep-1 {
				if err := tx.Delete(tenant.Bucket(ns, versions), versionKey(v.Name, v.Version)); err != nil {
					return err
				}
			}
		}
		out = &next
		return errors.Join(
			store.PutJSON(tx, tenant.Bucket(ns, current), in.Name, next),
			store.PutJSON(tx, tenant.Bucket(ns, versions), versionKey(in.Name, next.Version), next),
			bump(tx, ns))
	})
	if err != nil {
		return nil, err
	}
	short := *out
	short.Text = ""
	return &short, nil
}

// live gives the policy in force of a name, or nil.
func (p *Policies) live(tx store.Tx, ns, name string) (*trusteeapi.ResourcePolicy, error) {
	if _, err := tenant.GetNamespace(tx, ns); err != nil {
		return nil, err
	}
	v, ok, err := store.GetJSON[trusteeapi.ResourcePolicy](tx, tenant.Bucket(ns, current), name)
	if !ok {
		return nil, err
	}
	return v, err
}

// room reports whether there may be one more policy.
func room(tx store.Tx, ns, name string, replaces bool) error {
	n, names := 0, map[string]bool{name: true}
	if err := tx.Scan(tenant.Bucket(ns, current), "", func(string, []byte) (bool, error) { n++; return true, nil }); err != nil {
		return err
	}
	if err := tx.Scan(tenant.Bucket(ns, versions), "", func(k string, _ []byte) (bool, error) {
		base, _, _ := strings.Cut(k, "@")
		names[base] = true
		return true, nil
	}); err != nil {
		return err
	}
	if !replaces && n >= maxPolicies || len(names) > maxNames {
		return fmt.Errorf("resource policies: %d, and %d names: %w", n, len(names), tenant.ErrLimit)
	}
	return nil
}

// history lists the versions of a policy, the newest first.
func history(tx store.Tx, ns, name string) ([]trusteeapi.ResourcePolicy, error) {
	bucket, prefix := tenant.Bucket(ns, versions), name+"@"
	var keys []string
	err := tx.Scan(bucket, prefix, func(k string, _ []byte) (bool, error) {
		if !strings.HasPrefix(k, prefix) {
			return false, nil
		}
		keys = append(keys, k)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	slices.Reverse(keys)
	out := []trusteeapi.ResourcePolicy{}
	for _, k := range keys {
		v, ok, err := store.GetJSON[trusteeapi.ResourcePolicy](tx, bucket, k)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, *v)
		}
	}
	return out, nil
}

// List gives the policies in force, without their texts.
func (p *Policies) List(ctx context.Context, ns string) (out []trusteeapi.ResourcePolicy, err error) {
	err = p.store.View(ctx, func(tx store.Tx) error {
		if _, err := tenant.GetNamespace(tx, ns); err != nil {
			return err
		}
		out, err = store.List[trusteeapi.ResourcePolicy](tx, tenant.Bucket(ns, current))
		return err
	})
	for i := range out {
		out[i].Text = ""
	}
	return out, err
}

// History lists the versions of a policy that are kept, the newest first, without
// their texts; also of one that was deleted.
func (p *Policies) History(ctx context.Context, ns, name string) (out []trusteeapi.ResourcePolicy, err error) {
	err = p.store.View(ctx, func(tx store.Tx) error {
		if _, err := tenant.GetNamespace(tx, ns); err != nil {
			return err
		}
		out, err = history(tx, ns, name)
		return err
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("resource policy %.80q: %w", name, tenant.ErrNotFound)
	}
	for i := range out {
		out[i].Text = ""
	}
	return out, err
}

// Get gives a policy with its text: a version of it, or (0) what is in force.
func (p *Policies) Get(ctx context.Context, ns, name string, version uint64) (out *trusteeapi.ResourcePolicy, err error) {
	err = p.store.View(ctx, func(tx store.Tx) error {
		if version == 0 {
			out, err = p.live(tx, ns, name)
			return err
		}
		if _, err := tenant.GetNamespace(tx, ns); err != nil {
			return err
		}
		v, ok, err := store.GetJSON[trusteeapi.ResourcePolicy](tx, tenant.Bucket(ns, versions), versionKey(name, version))
		if ok {
			out = v
		}
		return err
	})
	if err == nil && out == nil {
		err = fmt.Errorf("resource policy %.80q: %w", name, tenant.ErrNotFound)
	}
	return out, err
}

// Delete takes a policy out of force; its versions stay.
func (p *Policies) Delete(ctx context.Context, ns, name string) error {
	return p.store.Update(ctx, func(tx store.Tx) error {
		have, err := p.live(tx, ns, name)
		if err != nil {
			return err
		}
		if have == nil {
			return fmt.Errorf("resource policy %.80q: %w", name, tenant.ErrNotFound)
		}
		return errors.Join(tx.Delete(tenant.Bucket(ns, current), name), bump(tx, ns))
	})
}
