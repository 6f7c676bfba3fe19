package trusteeapi

import "time"

// OutsideSecret says in which store outside of the trustee a secret lives. It has no
// content; the binding of its name says who may have that.
type OutsideSecret struct {
	Name  string `json:"name"`  // repository/type/tag
	Store string `json:"store"` // as the operator calls it
	// Source is what the secret is called in the store, Field which part of it (stores
	// whose secrets have several), Version which version, as the store spells it; "":
	// the current one.
	Source  string `json:"source"`
	Field   string `json:"field,omitempty"`
	Version string `json:"version,omitempty"`
	// Encoding is "" where the store has the secret's bytes, or EncodingBase64.
	Encoding string    `json:"encoding,omitempty"`
	Created  time.Time `json:"created,omitzero"`
	Actor    string    `json:"actor,omitempty"` // key id of who mapped it
	Binding  *Binding  `json:"binding,omitempty"`
}

// EncodingBase64 says that a store has a secret in base64 (standard alphabet).
const EncodingBase64 = "base64"

// SecretStore is a store that a namespace may map secrets to.
type SecretStore struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Numbered bool   `json:"numbered"` // a guest can ask for a version by its number
}
