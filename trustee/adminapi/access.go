package adminapi

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// accessRoutes are the operations on who may do what.
func accessRoutes() []route {
	const ns = "/namespaces/{ns}"
	return []route{
		{"GET", "/operations", ReadInfo, 0, func(*call) (any, error) { return operations(), nil }},
		{"GET", "/whoami", ReadInfo, 0, func(c *call) (any, error) {
			return trusteeapi.Caller{Actor: c.actor, Grants: c.caller.Grants}, nil
		}},
		{"GET", "/credentials", ReadCredentials, 0, (*call).credentials},
		{"POST", "/credentials", WriteCredentials, small, (*call).addCredential},
		{"DELETE", "/credentials/{id}", WriteCredentials, 0, (*call).deleteCredential},
		{"GET", ns + "/token-keys", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.TokenKeys.List(c.ctx(), c.ns()) }},
		{"POST", ns + "/token-keys", RotateKeys, small, (*call).rotateTokenKey},
		{"GET", ns + "/audit", ReadAudit, 0, (*call).namespaceAudit},
	}
}

// recordsItself are the operations that put more into the audit log than their path
// says, before they change anything.
var recordsItself = []string{"POST /credentials", "DELETE /credentials/{id}"}

// grants spells grants as the commands do.
func grants(l []trusteeapi.Grant) string {
	var out []string
	for _, g := range l {
		out = append(out, string(g.Role)+"@"+g.Namespace)
	}
	return strings.Join(out, ",")
}

// gives reports whether whoever calls has the permission in every namespace of some
// grants. The administrator's role is given, seen and taken by administrators alone.
func (c *call) gives(need Permission, l []trusteeapi.Grant) bool {
	return !slices.ContainsFunc(l, func(g trusteeapi.Grant) bool {
		if g.Role == trusteeapi.RoleAdmin && !slices.Contains(c.caller.In(trusteeapi.AllNamespaces), trusteeapi.RoleAdmin) && need == WriteCredentials {
			return true
		}
		return !c.may(need, g.Namespace)
	})
}

func (c *call) credentials() (any, error) {
	all, err := c.cfg.Credentials.List(c.ctx())
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(x trusteeapi.Credential) bool { return !c.gives(ReadCredentials, x.Grants) }), nil
}

func (c *call) addCredential() (any, error) {
	x, err := decode[trusteeapi.Credential](c)
	if err != nil {
		return nil, err
	}
	for _, g := range x.Grants {
		if err := g.Check(); err != nil {
			return nil, httpio.BadRequest(httpio.TypeSerde, err.Error())
		}
	}
	if len(x.Grants) > trusteeapi.MaxGrants {
		return nil, httpio.BadRequest(httpio.TypeSerde, fmt.Sprintf("more than %d grants", trusteeapi.MaxGrants))
	}
	if !c.gives(WriteCredentials, x.Grants) {
		return nil, forbidden(c.caller, WriteCredentials, grants(x.Grants))
	}
	what := fmt.Sprintf("POST /credentials %.12s %.80q %.80q: %.2000s", x.Kind, x.Name, x.Subject, grants(x.Grants))
	if err := c.record(c.r, "", c.actor, what); err != nil {
		return nil, err
	}
	out, err := c.cfg.Credentials.Add(c.ctx(), *x, c.caller)
	if err != nil {
		return nil, ended(err)
	}
	return out, nil
}

func (c *call) deleteCredential() (any, error) {
	q := c.r.URL.Query()
	given := q.Get(trusteeapi.QueryGiven)
	if given != "" && given != trusteeapi.GivenEnd || len(q) > 1 || len(q) == 1 && !q.Has(trusteeapi.QueryGiven) {
		return nil, httpio.BadRequest(httpio.TypeSerde, "the query may say given="+trusteeapi.GivenEnd+" and nothing else")
	}
	id := c.r.PathValue("id")
	what := "DELETE /credentials/{id}"
	if given != "" {
		what += " and what it has given"
	}
	if err := c.record(c.r, "", c.actor, what); err != nil {
		return nil, err
	}
	out, err := c.cfg.Credentials.Delete(c.ctx(), id, given != "", func(x *trusteeapi.Credential) error {
		if !c.gives(WriteCredentials, x.Grants) {
			return forbidden(c.caller, WriteCredentials, grants(x.Grants))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// Of what stands he sees what he may look at anyway.
	out.Standing = slices.DeleteFunc(out.Standing, func(x trusteeapi.Credential) bool { return !c.gives(ReadCredentials, x.Grants) })
	if len(out.Ended)+len(out.Standing) == 0 {
		return nil, nil
	}
	return out, nil
}

func (c *call) rotateTokenKey() (any, error) {
	o, err := decode[trusteeapi.TokenKeyRotation](c)
	if err != nil {
		return nil, err
	}
	k, err := c.cfg.TokenKeys.Rotate(c.ctx(), c.ns(), *o)
	if errors.Is(err, keyring.ErrTooManyTokenKeys) {
		err = fmt.Errorf("%w: %w", err, tenant.ErrConflict)
	}
	return k, err
}

func (c *call) attestation() (any, error) {
	r, err := c.cfg.Book.Get(c.ctx(), c.r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if !c.may(ReadRecords, r.Namespace) {
		return nil, record.ErrNotFound // whether there is one is another's to know
	}
	return r, nil
}

func (c *call) namespaces() (any, error) {
	all, err := c.cfg.Registry.Namespaces(c.ctx())
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(n trusteeapi.Namespace) bool { return !c.may(ReadTenant, n.Name) }), nil
}
