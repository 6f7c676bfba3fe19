package adminapi

import (
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/credential"
)

// Permission is what a route asks for.
type Permission string

// Permissions.
const (
	ReadInfo        Permission = "info:read"
	ReadTenant      Permission = "tenant:read"
	WriteNamespaces Permission = "namespaces:write"
	WriteOwners     Permission = "owners:write"
	WriteSeals      Permission = "seals:write"
	WriteBindings   Permission = "bindings:write"
	WriteDigests    Permission = "bindings:digests" // bindings that no owner has signed
	WriteSecrets    Permission = "secrets:write"
	// MapSecrets says which secret of a store outside goes by a name here: whoever may,
	// reaches secrets that he does not know.
	MapSecrets      Permission = "secrets:map"
	WriteTrust      Permission = "trust:write"
	WriteCollateral Permission = "collateral:write"
	ReadRecords     Permission = "records:read"
	ReadAudit       Permission = "audit:read"     // a namespace's
	ReadAuditLog    Permission = "audit-log:read" // the whole
	// RemoveAuditLog takes finished logs out of the store, and signs the ends of those
	// whose server could not. Auditors do not have it, nor owners: what both read stays.
	RemoveAuditLog   Permission = "audit-log:remove"
	MakeBackup       Permission = "backup:make"
	RotateKeys       Permission = "keys:rotate"
	WriteIdentities  Permission = "identities:write"
	ReadCredentials  Permission = "credentials:read"
	WriteCredentials Permission = "credentials:write"
)

// granted lists what each role may do; a role that is not listed may do nothing.
// docs/trustee/roles.md says it for people, and a test compares both with what a
// server does.
//
// A secret-writer binds to seals alone: who could bind a secret to any digest could
// read it, in a guest of his own.
var granted = map[trusteeapi.Role][]Permission{
	trusteeapi.RoleAdmin: {
		ReadInfo, ReadTenant, WriteNamespaces, WriteOwners, WriteSeals, WriteBindings, WriteDigests, WriteSecrets, MapSecrets, WriteTrust, WriteCollateral,
		ReadRecords, ReadAudit, ReadAuditLog, RemoveAuditLog, MakeBackup, RotateKeys, WriteIdentities, ReadCredentials, WriteCredentials,
	},
	trusteeapi.RoleOwner: {
		ReadInfo, ReadTenant, WriteOwners, WriteSeals, WriteBindings, WriteDigests, WriteSecrets, MapSecrets, WriteTrust, ReadRecords, ReadAudit, ReadAuditLog,
		RotateKeys, WriteIdentities, ReadCredentials, WriteCredentials,
	},
	trusteeapi.RoleSecretWriter: {ReadInfo, ReadTenant, WriteSeals, WriteBindings, WriteSecrets},
	trusteeapi.RolePolicyAdmin:  {ReadInfo, ReadTenant, WriteTrust, ReadRecords},
	trusteeapi.RoleAuditor:      {ReadInfo, ReadTenant, ReadRecords, ReadAudit, ReadAuditLog, ReadCredentials},
	trusteeapi.RoleReader:       {ReadInfo, ReadTenant},
}

// wide are the permissions on what all namespaces share: a grant in one of them is
// not enough.
var wide = []Permission{WriteNamespaces, WriteCollateral, ReadAuditLog, RemoveAuditLog, MakeBackup}

// Scopes of operations.
const (
	scopeNamespace = "namespace"
	scopeTrustee   = "trustee"
	scopeAny       = "any"
)

func (rt *route) scope() string {
	switch {
	case slices.Contains(wide, rt.need):
		return scopeTrustee
	case strings.Contains(rt.path, "{ns}"):
		return scopeNamespace
	}
	return scopeAny
}

// allowed reports whether a caller has a permission where a scope wants it; ns is
// the path's namespace.
func allowed(c *credential.Caller, need Permission, scope, ns string) bool {
	if scope == scopeAny {
		return slices.ContainsFunc(c.Grants, func(g trusteeapi.Grant) bool { return slices.Contains(granted[g.Role], need) })
	}
	if slices.Contains(wide, need) {
		ns = trusteeapi.AllNamespaces
	}
	return slices.ContainsFunc(c.In(ns), func(r trusteeapi.Role) bool { return slices.Contains(granted[r], need) })
}

// may reports whether whoever calls has a permission in a namespace.
func (c *call) may(need Permission, ns string) bool {
	return allowed(c.caller, need, scopeNamespace, ns)
}

// operations is the table of who may do what.
func operations() []trusteeapi.Operation {
	var out []trusteeapi.Operation
	for _, rt := range routes() {
		o := trusteeapi.Operation{Method: rt.method, Path: rt.path, Permission: string(rt.need), Scope: rt.scope()}
		for _, r := range trusteeapi.Roles() {
			if slices.Contains(granted[r], rt.need) {
				o.Roles = append(o.Roles, r)
			}
		}
		out = append(out, o)
	}
	return out
}
