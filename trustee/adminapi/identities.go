package adminapi

import (
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/httpio"
)

// identityRoutes are the operations on what guests are called.
func identityRoutes() []route {
	const ns = "/namespaces/{ns}"
	return []route{
		{"PUT", ns + "/trust-domain", WriteIdentities, small, func(c *call) (any, error) {
			d, err := decode[trusteeapi.TrustDomain](c)
			if err != nil {
				return nil, err
			}
			return c.cfg.Registry.SetTrustDomain(c.ctx(), c.ns(), d.TrustDomain)
		}},
		{"GET", ns + "/identities", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Registry.Identities(c.ctx(), c.ns()) }},
		{"PUT", ns + "/identities/{name}", WriteIdentities, small, (*call).putIdentity},
		{"DELETE", ns + "/identities/{name}", WriteIdentities, 0, func(c *call) (any, error) {
			return nil, c.cfg.Registry.DeleteIdentity(c.ctx(), c.ns(), c.r.PathValue("name"))
		}},
		{"GET", ns + "/identity-authorities", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Identities.Authorities(c.ctx(), c.ns()) }},
		{"POST", ns + "/identity-authorities", RotateKeys, small, func(c *call) (any, error) {
			o, err := decode[trusteeapi.TokenKeyRotation](c)
			if err != nil {
				return nil, err
			}
			return c.cfg.Identities.Rotate(c.ctx(), c.ns(), o.Compromised)
		}},
	}
}

func (c *call) putIdentity() (any, error) {
	i, err := decode[trusteeapi.Identity](c)
	if err != nil {
		return nil, err
	}
	if i.Name != c.r.PathValue("name") {
		return nil, httpio.BadRequest(httpio.TypeSerde, "name is not the path's")
	}
	return c.cfg.Registry.PutIdentity(c.ctx(), c.ns(), c.actor, *i)
}
