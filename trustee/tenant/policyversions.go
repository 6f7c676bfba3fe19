package tenant

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/trustee/store"
)

const (
	policyVersions = "policy-versions"
	keepPolicies   = 32  // versions of each
	maxPolicyNames = 256 // with those that were deleted, whose versions stay
)

func policyKey(name string, version uint64) string { return fmt.Sprintf("%s@%020d", name, version) }

// keepVersion numbers a policy and puts it into the history; have is the one that it
// replaces, which may be from before there was a history.
func keepVersion(tx store.Tx, ns string, have, next *trusteeapi.Policy) error {
	keys, names, err := policyHistory(tx, ns, next.Name)
	if err != nil {
		return err
	}
	if len(keys) == 0 && names >= maxPolicyNames {
		return fmt.Errorf("policies: %d names: %w", names, ErrLimit)
	}
	last := uint64(0)
	if have != nil && have.Version == 0 {
		first := *have
		first.Version = 1
		last = 1
		if err := store.PutJSON(tx, Bucket(ns, policyVersions), policyKey(first.Name, 1), first); err != nil {
			return err
		}
	}
	if len(keys) > 0 {
		newest, ok, err := store.GetJSON[trusteeapi.Policy](tx, Bucket(ns, policyVersions), keys[len(keys)-1])
		if err != nil {
			return err
		}
		if ok {
			last = newest.Version
		}
	}
	next.Version = last + 1
	for len(keys) >= keepPolicies {
		if err := tx.Delete(Bucket(ns, policyVersions), keys[0]); err != nil {
			return err
		}
		keys = keys[1:]
	}
	return store.PutJSON(tx, Bucket(ns, policyVersions), policyKey(next.Name, next.Version), next)
}

// policyHistory gives the keys of a policy's versions, the oldest first, and the
// number of names that have any.
func policyHistory(tx store.Tx, ns, name string) (keys []string, names int, err error) {
	seen := ""
	err = tx.Scan(Bucket(ns, policyVersions), "", func(k string, _ []byte) (bool, error) {
		base, _, _ := strings.Cut(k, "@")
		if base != seen {
			names++
			seen = base
		}
		if base == name {
			keys = append(keys, k)
		}
		return true, nil
	})
	return keys, names, err
}

// PolicyVersions lists the versions of a policy that are kept, the newest first,
// without their texts; also of one that was deleted.
func (r *Registry) PolicyVersions(ctx context.Context, ns, name string) ([]trusteeapi.Policy, error) {
	out := []trusteeapi.Policy{}
	err := r.store.View(ctx, func(tx store.Tx) error {
		if _, err := GetNamespace(tx, ns); err != nil {
			return err
		}
		keys, _, err := policyHistory(tx, ns, name)
		if err != nil {
			return err
		}
		slices.Reverse(keys)
		for _, k := range keys {
			p, ok, err := store.GetJSON[trusteeapi.Policy](tx, Bucket(ns, policyVersions), k)
			if err != nil {
				return err
			}
			if ok {
				p.Text = ""
				out = append(out, *p)
			}
		}
		return nil
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("versions of policy %.80q: %w", name, ErrNotFound)
	}
	return out, err
}

// PolicyVersion gives a version of a policy with its text; 0: what is in force.
func (r *Registry) PolicyVersion(ctx context.Context, ns, name string, version uint64) (out *trusteeapi.Policy, err error) {
	if version == 0 {
		return r.Policy(ctx, ns, name)
	}
	err = r.store.View(ctx, func(tx store.Tx) error {
		if _, err := GetNamespace(tx, ns); err != nil {
			return err
		}
		p, ok, err := store.GetJSON[trusteeapi.Policy](tx, Bucket(ns, policyVersions), policyKey(name, version))
		if err == nil && !ok {
			err = fmt.Errorf("policy %.80q, version %d: %w", name, version, ErrNotFound)
		}
		out = p
		return err
	})
	return out, err
}

// SetAppraisalPolicy chooses which policies judge a namespace's evidence: those
// named <id>_<class>. At least that for CPUs must be there; evidence of a class
// without one is denied. "" and "default" are the default.
func (r *Registry) SetAppraisalPolicy(ctx context.Context, ns, id string) (out *trusteeapi.Namespace, err error) {
	if id == policy.DefaultID {
		id = ""
	}
	err = r.update(ctx, ns, func(tx store.Tx, n *trusteeapi.Namespace) error {
		if id != "" {
			name := policy.Name(id, "cpu")
			have, err := tx.Get(Bucket(ns, policies), name)
			if err != nil {
				return err
			}
			if have == nil {
				return fmt.Errorf("policy %.80q: %w", name, ErrNotFound)
			}
		}
		n.AppraisalPolicy, out = id, n
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
