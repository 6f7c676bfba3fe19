// Package svid is the contract by which attested guests get SPIFFE identities: paths
// below the KBS protocol's prefix, and the documents that come back (an addition to the
// published protocol; api/kbs/SPEC.md, "Identities").
//
// Invariants: a document is encrypted to the attested TEE key on its way to the guest; the
// private key of a certificate is never in it.
//
// Trust zone: both ends.
package svid

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"
)

// Plugin is the name in paths: POST /svid/x509/<name> with a PKCS #10 request in DER, and
// GET /svid/jwt/<name>?audience=...
const Plugin = "svid"

// Kinds of documents.
const (
	KindX509 = "x509"
	KindJWT  = "jwt"
)

// QueryAudience may come several times, up to MaxAudiences.
const (
	QueryAudience = "audience"
	MaxAudiences  = 8
)

// ParseAudiences reads the query of a request for a JWT.
func ParseAudiences(raw string) ([]string, error) {
	q, err := url.ParseQuery(raw)
	if a := q[QueryAudience]; err == nil && len(q) == 1 && len(a) > 0 && len(a) <= MaxAudiences && !slices.Contains(a, "") {
		return a, nil
	}
	return nil, fmt.Errorf("query: from 1 to %d of %s, and nothing else", MaxAudiences, QueryAudience)
}

const maxName = 63

// CheckName reports what is no name of an identity.
func CheckName(s string) error {
	ok := s != "" && len(s) <= maxName && s[0] != '-'
	for i := range len(s) {
		c := s[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return fmt.Errorf("%.80q is no name of an identity: up to %d small letters, digits and dashes", s, maxName)
	}
	return nil
}

// MaxDocument bounds what comes back, in bytes.
const MaxDocument = 128 << 10

// X509 is what the trustee answers, and with Key what the workload gets.
type X509 struct {
	ID      string    `json:"spiffe_id"`
	Chain   string    `json:"x509_svid"` // PEM, the leaf first
	Bundle  string    `json:"bundle"`    // PEM: authorities of the trust domain
	Expires time.Time `json:"expires"`
	// Key is PKCS #8 in PEM. The guest adds it; a document of the trustee has none.
	Key string `json:"x509_svid_key,omitempty"`
}

// JWT is a token for the audiences that were asked for.
type JWT struct {
	ID      string    `json:"spiffe_id"`
	Token   string    `json:"jwt_svid"`
	Expires time.Time `json:"expires"`
}

// DecodeX509 reads a trustee's answer.
func DecodeX509(b []byte) (*X509, error) {
	if len(b) > MaxDocument {
		return nil, fmt.Errorf("identity: %d bytes, at most %d", len(b), MaxDocument)
	}
	x := new(X509)
	if err := json.Unmarshal(b, x); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if x.ID == "" || x.Chain == "" || x.Bundle == "" || x.Expires.IsZero() || x.Key != "" {
		return nil, errors.New("identity: a part is missing, or there is a key that only the guest can have")
	}
	return x, nil
}
