package trusteeclient

import (
	"context"
	"net/http"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// ListSecretStores lists the stores that the namespace may map secrets to.
func (n *Namespaced) ListSecretStores(ctx context.Context) ([]trusteeapi.SecretStore, error) {
	return list[trusteeapi.SecretStore](ctx, n.c, n.path+"/secret-stores", nil)
}

// ListMapped lists the secrets that live in stores outside of the trustee.
func (n *Namespaced) ListMapped(ctx context.Context) ([]trusteeapi.OutsideSecret, error) {
	return list[trusteeapi.OutsideSecret](ctx, n.c, n.path+"/outside", nil)
}

// MapSecret says in which store a secret lives.
func (n *Namespaced) MapSecret(ctx context.Context, name string, m trusteeapi.OutsideSecret) (*trusteeapi.OutsideSecret, error) {
	path, err := resourcePath(name)
	if err != nil {
		return nil, err
	}
	b, err := n.c.send(ctx, http.MethodPut, n.path+"/outside/"+path, m)
	if err != nil {
		return nil, err
	}
	return decode[trusteeapi.OutsideSecret](b)
}

// UnmapSecret forgets where a secret lives, and its binding.
func (n *Namespaced) UnmapSecret(ctx context.Context, name string) error {
	path, err := resourcePath(name)
	if err != nil {
		return err
	}
	return n.c.del(ctx, n.path+"/outside/"+path)
}
