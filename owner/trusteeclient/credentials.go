package trusteeclient

import (
	"context"
	"net/http"
	"net/url"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// Whoami says who the trustee takes the caller for, and what he may do.
func (c *Client) Whoami(ctx context.Context) (*trusteeapi.Caller, error) {
	return get[trusteeapi.Caller](ctx, c, "/whoami", nil)
}

// AddCredential registers a credential. Of a bearer token, the answer has the token,
// which is not kept.
func (c *Client) AddCredential(ctx context.Context, x trusteeapi.Credential) (*trusteeapi.Credential, error) {
	return post[trusteeapi.Credential](ctx, c, "/credentials", x)
}

// ListCredentials lists the credentials of the caller's namespaces.
func (c *Client) ListCredentials(ctx context.Context) ([]trusteeapi.Credential, error) {
	return list[trusteeapi.Credential](ctx, c, "/credentials", nil)
}

// DeleteCredential takes a credential back: it counts no more; with given, what it has
// given does not count either. The answer says what ended with it, and what stands.
func (c *Client) DeleteCredential(ctx context.Context, id string, given bool) (*trusteeapi.CredentialEnd, error) {
	q := url.Values{}
	if given {
		q.Set(trusteeapi.QueryGiven, trusteeapi.GivenEnd)
	}
	b, err := c.raw(ctx, http.MethodDelete, "/credentials/"+url.PathEscape(id), q, "", nil)
	if err != nil || len(b) == 0 {
		return &trusteeapi.CredentialEnd{}, err
	}
	return decode[trusteeapi.CredentialEnd](b)
}

// ListTokenKeys lists the keys that sign the namespace's attestation results.
func (n *Namespaced) ListTokenKeys(ctx context.Context) ([]trusteeapi.TokenKey, error) {
	return list[trusteeapi.TokenKey](ctx, n.c, n.path+"/token-keys", nil)
}

// RotateTokenKey makes a new one.
func (n *Namespaced) RotateTokenKey(ctx context.Context, o trusteeapi.TokenKeyRotation) (*trusteeapi.TokenKey, error) {
	return post[trusteeapi.TokenKey](ctx, n.c, n.path+"/token-keys", o)
}
