package tenant

import (
	"context"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
)

const (
	identities   = "identities"
	trustDomains = "trust-domains" // of the trustee: whose each is, also after the namespace was deleted
)

// SetTrustDomain names a namespace's trust domain, once: what was issued in it names it.
// No two namespaces share one.
func (r *Registry) SetTrustDomain(ctx context.Context, ns, domain string) (out *trusteeapi.Namespace, err error) {
	if err := trusteeapi.CheckTrustDomain(domain); err != nil {
		return nil, invalid(err)
	}
	err = r.update(ctx, ns, func(tx store.Tx, n *trusteeapi.Namespace) error {
		out = n
		switch n.TrustDomain {
		case domain:
			return nil
		case "":
		default:
			return fmt.Errorf("namespace %s has trust domain %s, which is for good: %w", ns, n.TrustDomain, ErrConflict)
		}
		whose, err := tx.Get(trustDomains, domain)
		if err != nil {
			return err
		}
		if whose != nil {
			return fmt.Errorf("trust domain %s is another namespace's: %w", domain, ErrConflict)
		}
		n.TrustDomain = domain
		if err := tx.Put(trustDomains, domain, []byte(ns)); err != nil {
			return err
		}
		return store.PutJSON(tx, namespaces, ns, n)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// PutIdentity registers an identity or replaces it. Who has it is for its binding to
// say; a new path does not change that.
func (r *Registry) PutIdentity(ctx context.Context, ns, actor string, i trusteeapi.Identity) (*trusteeapi.Identity, error) {
	if err := i.Check(); err != nil {
		return nil, invalid(err)
	}
	i.Created, i.CreatedBy = r.now().UTC(), actor
	var domain string
	err := r.update(ctx, ns, func(tx store.Tx, n *trusteeapi.Namespace) error {
		if domain = n.TrustDomain; domain == "" {
			return fmt.Errorf("%w: namespace %s has no trust domain", ErrInvalid, ns)
		}
		if len("spiffe://"+domain+i.Path) > maxSPIFFE {
			return fmt.Errorf("%w: a SPIFFE id of more than %d bytes", ErrInvalid, maxSPIFFE)
		}
		if err := r.roomFor(tx, limits.Identities, ns, identities, i.Name); err != nil {
			return err
		}
		return store.PutJSON(tx, Bucket(ns, identities), i.Name, i)
	})
	if err != nil {
		return nil, err
	}
	complete(&i, domain)
	return &i, nil
}

const maxSPIFFE = 2048 // bytes of an id (SPIFFE-ID, section 2.3)

func complete(i *trusteeapi.Identity, domain string) {
	i.ID, i.Resource = "spiffe://"+domain+i.Path, trusteeapi.IdentityResource(i.Name)
}

// Identities lists what is registered.
func (r *Registry) Identities(ctx context.Context, ns string) (out []trusteeapi.Identity, err error) {
	n, err := r.Namespace(ctx, ns)
	if err != nil {
		return nil, err
	}
	if out, err = list[trusteeapi.Identity](ctx, r, ns, identities); err != nil {
		return nil, err
	}
	for i := range out {
		complete(&out[i], n.TrustDomain)
	}
	return out, nil
}

// Identity gives one identity, and the trust domain of its namespace.
func (r *Registry) Identity(ctx context.Context, ns, name string) (out *trusteeapi.Identity, domain string, err error) {
	err = r.store.View(ctx, func(tx store.Tx) error {
		n, err := GetNamespace(tx, ns)
		if err != nil {
			return err
		}
		i, ok, err := store.GetJSON[trusteeapi.Identity](tx, Bucket(ns, identities), name)
		if err == nil && !ok {
			err = fmt.Errorf("identity %.80q: %w", name, ErrNotFound)
		}
		out, domain = i, n.TrustDomain
		return err
	})
	if err != nil {
		return nil, "", err
	}
	complete(out, domain)
	return out, domain, nil
}

// DeleteIdentity removes an identity with its binding: one of that name which is made
// later is nobody's.
func (r *Registry) DeleteIdentity(ctx context.Context, ns, name string) error {
	return r.update(ctx, ns, func(tx store.Tx, _ *trusteeapi.Namespace) error {
		have, err := tx.Get(Bucket(ns, identities), name)
		if err == nil && have == nil {
			err = fmt.Errorf("identity %.80q: %w", name, ErrNotFound)
		}
		if err != nil {
			return err
		}
		if err := DropBinding(tx, ns, trusteeapi.IdentityResource(name)); err != nil {
			return err
		}
		return tx.Delete(Bucket(ns, identities), name)
	})
}

// InTrustDomain reports whether an id is of a trust domain.
func InTrustDomain(id, domain string) bool { return strings.HasPrefix(id, "spiffe://"+domain+"/") }
