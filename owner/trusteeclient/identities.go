package trusteeclient

import (
	"context"
	"net/url"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// SetTrustDomain names the namespace's SPIFFE trust domain, once and for good.
func (n *Namespaced) SetTrustDomain(ctx context.Context, domain string) (*trusteeapi.Namespace, error) {
	return put[trusteeapi.Namespace](ctx, n.c, n.path+"/trust-domain", trusteeapi.TrustDomain{TrustDomain: domain})
}

// Describe gives what the trustee knows of the namespace.
func (n *Namespaced) Describe(ctx context.Context) (*trusteeapi.Namespace, error) {
	return get[trusteeapi.Namespace](ctx, n.c, n.path, nil)
}

// SetQuotas replaces the namespace's limits of its own.
func (n *Namespaced) SetQuotas(ctx context.Context, quotas map[string]int) (*trusteeapi.Namespace, error) {
	return put[trusteeapi.Namespace](ctx, n.c, n.path+"/quotas", trusteeapi.Quotas{Quotas: quotas})
}

// SetChannelBinding says whether evidence must cover the connection that brings it.
func (n *Namespaced) SetChannelBinding(ctx context.Context, required bool) (*trusteeapi.Namespace, error) {
	return put[trusteeapi.Namespace](ctx, n.c, n.path+"/channel-binding", trusteeapi.ChannelBinding{Required: required})
}

// PutIdentity registers an identity or replaces it.
func (n *Namespaced) PutIdentity(ctx context.Context, i trusteeapi.Identity) (*trusteeapi.Identity, error) {
	return put[trusteeapi.Identity](ctx, n.c, n.path+"/identities/"+url.PathEscape(i.Name), i)
}

// ListIdentities lists the registered identities.
func (n *Namespaced) ListIdentities(ctx context.Context) ([]trusteeapi.Identity, error) {
	return list[trusteeapi.Identity](ctx, n.c, n.path+"/identities", nil)
}

// DeleteIdentity removes an identity and its binding.
func (n *Namespaced) DeleteIdentity(ctx context.Context, name string) error {
	return n.c.del(ctx, n.path+"/identities/"+url.PathEscape(name))
}

// ListIdentityAuthorities lists the authorities in the namespace's bundle.
func (n *Namespaced) ListIdentityAuthorities(ctx context.Context) ([]trusteeapi.IdentityAuthority, error) {
	return list[trusteeapi.IdentityAuthority](ctx, n.c, n.path+"/identity-authorities", nil)
}

// RotateIdentityAuthority makes a new one.
func (n *Namespaced) RotateIdentityAuthority(ctx context.Context, o trusteeapi.TokenKeyRotation) (*trusteeapi.IdentityAuthority, error) {
	return post[trusteeapi.IdentityAuthority](ctx, n.c, n.path+"/identity-authorities", o)
}
