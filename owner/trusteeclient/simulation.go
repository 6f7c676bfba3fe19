package trusteeclient

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net/http"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// AddSimulatedRoot registers the root of a machine that plays the hardware of one
// TEE (its wire name), in a simulated namespace.
func (n *Namespaced) AddSimulatedRoot(ctx context.Context, tee string, cert *x509.Certificate) (*trusteeapi.EKRoot, error) {
	return post[trusteeapi.EKRoot](ctx, n.c, n.path+"/roots", map[string]string{
		"tee": tee, "certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})),
	})
}

// ImportCollateral gives the trustee a bundle of collateral (tee/collateral).
func (c *Client) ImportCollateral(ctx context.Context, bundle []byte) error {
	_, err := c.raw(ctx, http.MethodPost, "/collateral", nil, "application/json", bundle)
	return err
}
