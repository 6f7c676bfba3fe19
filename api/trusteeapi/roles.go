package trusteeapi

import (
	"fmt"
	"slices"
	"time"
)

// Role is what a credential may do; docs/trustee/roles.md lists it. An unknown
// role may do nothing.
type Role string

// Roles. RoleAdmin is the trustee's own and holds everywhere; the others hold in
// one namespace or, granted for AllNamespaces, in each.
const (
	RoleAdmin        Role = "admin"
	RoleOwner        Role = "owner"         // everything of a namespace
	RoleSecretWriter Role = "secret-writer" // writes secrets and binds them to seals; reads none
	RolePolicyAdmin  Role = "policy-admin"  // says what evidence is judged by
	RoleAuditor      Role = "auditor"       // reads decisions and the audit log
	RoleReader       Role = "reader"        // reads what is registered; never a secret
)

// Roles lists every role.
func Roles() []Role {
	return []Role{RoleAdmin, RoleOwner, RoleSecretWriter, RolePolicyAdmin, RoleAuditor, RoleReader}
}

// AllNamespaces in a grant is every namespace, also those to come.
const AllNamespaces = "*"

// Grant is a role in a namespace.
type Grant struct {
	Role      Role   `json:"role"`
	Namespace string `json:"namespace"` // or AllNamespaces
}

// Check reports a grant that means nothing.
func (g Grant) Check() error {
	if !slices.Contains(Roles(), g.Role) {
		return fmt.Errorf("grant: %.40q is no role", g.Role)
	}
	if g.Namespace == AllNamespaces {
		return nil
	}
	if g.Role == RoleAdmin {
		return fmt.Errorf("grant: %s is a role of the whole trustee (namespace %q)", g.Role, AllNamespaces)
	}
	return CheckNamespace(g.Namespace)
}

// Kinds of credentials.
const (
	CredentialKey         = "key"         // signs a token for each request, or presents a client certificate with this key
	CredentialCertificate = "certificate" // a client certificate of a trusted authority, by its name
	CredentialToken       = "token"       // a bearer token that the trustee has issued
	CredentialOIDC        = "oidc"        // a token of an OpenID Connect provider that the trustee was started with, by a claim
)

// MaxGrants is how many grants a credential has at most.
const MaxGrants = 64

// Credential is who may do something.
type Credential struct {
	ID     string  `json:"id,omitempty"`
	Kind   string  `json:"kind"`
	Name   string  `json:"name,omitempty"` // for people
	Grants []Grant `json:"grants"`
	// PublicKey is a key's: PEM, SubjectPublicKeyInfo.
	PublicKey string `json:"public_key,omitempty"`
	// Subject is a certificate's name ("uri:spiffe://...", "dns:...", "email:..." or
	// "cn:..."), or of a provider's token the issuer, a space, and CLAIM=VALUE.
	Subject string `json:"subject,omitempty"`
	// Token is a bearer token. It is there once, in the answer that issues it.
	Token     string    `json:"token,omitempty"`
	Expires   time.Time `json:"expires,omitzero"` // zero: never
	Created   time.Time `json:"created,omitzero"`
	CreatedBy string    `json:"created_by,omitempty"`
	// GivenBy are the ids of the credentials with which it was given.
	GivenBy []string `json:"given_by,omitempty"`
}

// QueryGiven says what becomes of credentials that a credential, and who was given one by
// it, has given: GivenEnd takes them back as well; without it they stand.
const (
	QueryGiven = "given"
	GivenEnd   = "end"
)

// CredentialEnd says what became of them. It is the answer where there are any.
type CredentialEnd struct {
	Ended    []Credential `json:"ended,omitempty"`
	Standing []Credential `json:"standing,omitempty"`
}

// Operation is one thing that the administration API does, and who may do it.
type Operation struct {
	Method     string `json:"method"`
	Path       string `json:"path"` // below PathPrefix
	Permission string `json:"permission"`
	// Scope says where a grant must hold: "namespace" (the path's), "trustee" (all
	// namespaces) or "any" (some namespace; the answer has no more than that).
	Scope string `json:"scope"`
	Roles []Role `json:"roles"`
}

// Caller is who a request was authenticated as.
type Caller struct {
	Actor  string  `json:"actor"` // as the audit log has it
	Grants []Grant `json:"grants"`
}
