package trusteeclient

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/url"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

// AddRoot registers a root of simulated hardware, for one TEE or ("") for all; a
// simulated namespace only.
func (n *Namespaced) AddRoot(ctx context.Context, tee string, cert *x509.Certificate) (*trusteeapi.EKRoot, error) {
	p := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	return post[trusteeapi.EKRoot](ctx, n.c, n.path+"/roots", trusteeapi.EKRoot{TEE: tee, Certificate: p})
}

// ListRoots lists the registered certificates.
func (n *Namespaced) ListRoots(ctx context.Context) ([]trusteeapi.EKRoot, error) {
	return list[trusteeapi.EKRoot](ctx, n.c, n.path+"/roots", nil)
}

// DeleteRoot removes a certificate by its id.
func (n *Namespaced) DeleteRoot(ctx context.Context, id string) error {
	return n.c.del(ctx, n.path+"/roots/"+url.PathEscape(id))
}

// AllowUnproven replaces the list of verifiers and versions that count although no
// outside vector has shown them to be right.
func (n *Namespaced) AllowUnproven(ctx context.Context, names []string) (*trusteeapi.Namespace, error) {
	if names == nil {
		names = []string{}
	}
	b, err := n.c.send(ctx, http.MethodPut, n.path+"/allow-unproven", trusteeapi.AllowUnproven{AllowUnproven: names})
	if err != nil {
		return nil, err
	}
	return decode[trusteeapi.Namespace](b)
}

// SetPolicy registers an appraisal policy, named <id>_<class>.
func (n *Namespaced) SetPolicy(ctx context.Context, name, text string) (*trusteeapi.Policy, error) {
	b, err := n.c.raw(ctx, http.MethodPut, n.path+"/policies/"+url.PathEscape(name), nil, "text/plain", []byte(text))
	if err != nil {
		return nil, err
	}
	return decode[trusteeapi.Policy](b)
}

// Policy gives a policy with its text.
func (n *Namespaced) Policy(ctx context.Context, name string) (*trusteeapi.Policy, error) {
	return get[trusteeapi.Policy](ctx, n.c, n.path+"/policies/"+url.PathEscape(name), nil)
}

// ListPolicies lists the policies, the embedded ones in force among them.
func (n *Namespaced) ListPolicies(ctx context.Context) ([]trusteeapi.Policy, error) {
	return list[trusteeapi.Policy](ctx, n.c, n.path+"/policies", nil)
}

// DeletePolicy removes a policy.
func (n *Namespaced) DeletePolicy(ctx context.Context, name string) error {
	return n.c.del(ctx, n.path+"/policies/"+url.PathEscape(name))
}

// SetAnchor registers a document that a TEE's verifier needs in production.
func (n *Namespaced) SetAnchor(ctx context.Context, tee, name string, doc []byte) (*trusteeapi.Anchor, error) {
	b, err := n.c.raw(ctx, http.MethodPut, n.path+"/anchors/"+url.PathEscape(tee)+"/"+url.PathEscape(name), nil, "application/octet-stream", doc)
	if err != nil {
		return nil, err
	}
	return decode[trusteeapi.Anchor](b)
}

// ListAnchors lists the documents.
func (n *Namespaced) ListAnchors(ctx context.Context) ([]trusteeapi.Anchor, error) {
	return list[trusteeapi.Anchor](ctx, n.c, n.path+"/anchors", nil)
}

// DeleteAnchor removes a document.
func (n *Namespaced) DeleteAnchor(ctx context.Context, tee, name string) error {
	return n.c.del(ctx, n.path+"/anchors/"+url.PathEscape(tee)+"/"+url.PathEscape(name))
}

// ImportCollateral gives the trustee a collateral bundle.
func (c *Client) ImportCollateral(ctx context.Context, bundle []byte) (*trusteeapi.CollateralImport, error) {
	return post[trusteeapi.CollateralImport](ctx, c, "/collateral", json.RawMessage(bundle))
}

// ListCollateral lists what verifiers have at hand.
func (c *Client) ListCollateral(ctx context.Context) ([]trusteeapi.Collateral, error) {
	return list[trusteeapi.Collateral](ctx, c, "/collateral", nil)
}

// DeleteCollateral removes an item by its origin.
func (c *Client) DeleteCollateral(ctx context.Context, origin string) error {
	_, err := c.raw(ctx, http.MethodDelete, "/collateral", url.Values{"origin": {origin}}, "", nil)
	return err
}
