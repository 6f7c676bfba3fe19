package trusteeclient

import (
	"context"
	"net/http"
	"net/url"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// ExportCollateral gives a bundle of the items whose origins begin with a prefix;
// "": of all.
func (c *Client) ExportCollateral(ctx context.Context, prefix string) ([]byte, error) {
	q := url.Values{}
	if prefix != "" {
		q.Set("prefix", prefix)
	}
	return c.raw(ctx, http.MethodGet, "/collateral/bundle", q, "", nil)
}

// WantCollateral has documents fetched.
func (c *Client) WantCollateral(ctx context.Context, origins []string) (*trusteeapi.CollateralStatus, error) {
	return post[trusteeapi.CollateralStatus](ctx, c, "/collateral/wanted", trusteeapi.CollateralWanted{Origins: origins})
}

// CollateralStatus says how current collateral is.
func (c *Client) CollateralStatus(ctx context.Context) (*trusteeapi.CollateralStatus, error) {
	return get[trusteeapi.CollateralStatus](ctx, c, "/collateral/status", nil)
}
