package trusteeapi

import "time"

// TokenKey is a key that signs a namespace's attestation results.
type TokenKey struct {
	ID   string    `json:"id"` // hex SHA-256 of its SubjectPublicKeyInfo
	Made time.Time `json:"made"`
	// Signs is when it begins to sign: until then relying parties learn of it from
	// the key set.
	Signs time.Time `json:"signs"`
	// Until is when what it has signed counts no more; zero: it has no successor.
	Until time.Time `json:"until,omitzero"`
}

// TokenKeyRotation asks for a new key.
type TokenKeyRotation struct {
	// Compromised: the keys so far count no more from now on, and neither does what
	// they have signed. Else they do until that has expired.
	Compromised bool `json:"compromised,omitempty"`
}
