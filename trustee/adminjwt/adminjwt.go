// Package adminjwt authenticates administrators of the published paths by tokens of
// the owner's identity providers, as the existing Key Broker Service does it
// (authorization_mode AuthenticatedAuthorization; shared facts: trustee section 3.8).
//
// Invariants: a token counts with a good signature by a configured key of a fitting
// algorithm, an expiration that has not come, the issuer and audience of that
// provider where it has them, and a role for which a pattern matches the whole
// path; on the published paths keys come from files and are never fetched, and no key
// is taken from a token. Package oidc verifies with it what it fetches keys for.
//
// Trust zone: trustee. Tokens are hostile until verified.
package adminjwt

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Limits.
const (
	MaxToken = 16 << 10 // bytes
	maxText  = 256      // of issuer, subject and role
	leeway   = time.Minute
)

// Provider is one identity provider.
type Provider struct {
	Issuer, Audience string // "": any
	Keys             []Key
}

// Key verifies tokens.
type Key struct {
	Public    crypto.PublicKey
	ID        string // kid; "": of any
	Algorithm string // "": any that fits the key
}

// ACL lets a role use paths.
type ACL struct {
	Role string
	Path *regexp.Regexp
}

// Config is who may do what.
type Config struct {
	Providers []Provider
	ACLs      []ACL
}

// Compile makes a pattern of an ACL: it must be anchored at both ends, and begin
// with /kbs, as published. A query is never part of what it is compared with.
func Compile(pattern string) (*regexp.Regexp, error) {
	if !strings.HasPrefix(pattern, "^/kbs") || !strings.HasSuffix(pattern, "$") {
		return nil, fmt.Errorf("pattern %.120q does not begin with ^/kbs and end with $", pattern)
	}
	// The anchors bind to one alternative only where a pattern has several.
	re, err := regexp.Compile("^(?:" + pattern + ")$")
	if err != nil {
		return nil, fmt.Errorf("pattern %.120q: %w", pattern, err)
	}
	return re, nil
}

// ErrForbidden says that a token is good and its role may not do this.
var ErrForbidden = errors.New("role not allowed")

type header struct {
	Alg  string          `json:"alg"`
	Kid  string          `json:"kid"`
	Crit json.RawMessage `json:"crit"`
}

type claims struct {
	Issuer    string          `json:"iss"`
	Subject   string          `json:"sub"`
	Audience  json.RawMessage `json:"aud"`
	Role      string          `json:"role"`
	Expires   json.Number     `json:"exp"`
	NotBefore json.Number     `json:"nbf"`
}

// Authenticate gives who sends a token, for the audit log, if its role may use a
// path. Without a good token the error is for the log and the owner.
func (c *Config) Authenticate(token, path string, now time.Time) (actor string, err error) {
	if len(token) > MaxToken {
		return "", errors.New("token: too long")
	}
	h, raw, signed, sig, err := split(token)
	if err != nil {
		return "", err
	}
	for _, p := range c.Providers {
		if !p.verifies(h, signed, sig) {
			continue
		}
		m, err := readClaims(raw)
		if err != nil {
			return "", err
		}
		if err := p.accepts(m, now); err != nil {
			return "", err
		}
		actor = fmt.Sprintf("jwt:%s/%s role %s", m.Issuer, m.Subject, m.Role)
		if !slices.ContainsFunc(c.ACLs, func(a ACL) bool { return a.Role == m.Role && a.Path.MatchString(path) }) {
			return actor, fmt.Errorf("%w: %q", ErrForbidden, m.Role)
		}
		return actor, nil
	}
	return "", ErrNoKey
}

func split(token string) (h *header, claims []byte, signed string, sig []byte, err error) {
	part := strings.Split(token, ".")
	if len(part) != 3 {
		return nil, nil, "", nil, errors.New("token: not three parts")
	}
	var raw [3][]byte
	for i, p := range part {
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil {
			return nil, nil, "", nil, errors.New("token: not base64url")
		}
	}
	h = new(header)
	if err := json.Unmarshal(raw[0], h); err != nil {
		return nil, nil, "", nil, errors.New("token: header is not JSON")
	}
	if h.Crit != nil {
		return nil, nil, "", nil, errors.New("token: header has crit")
	}
	return h, raw[1], part[0] + "." + part[1], raw[2], nil
}

func (p *Provider) verifies(h *header, signed string, sig []byte) bool {
	for _, k := range p.Keys {
		if k.ID != "" && h.Kid != "" && k.ID != h.Kid || k.Algorithm != "" && k.Algorithm != h.Alg {
			continue
		}
		if verify(k.Public, h.Alg, []byte(signed), sig) {
			return true
		}
	}
	return false
}

func readClaims(raw []byte) (*claims, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	m := new(claims)
	if err := d.Decode(m); err != nil {
		return nil, errors.New("token: claims are not as they should be")
	}
	if len(m.Issuer) > maxText || len(m.Subject) > maxText || len(m.Role) > maxText {
		return nil, errors.New("token: a claim is too long")
	}
	return m, nil
}

// accepts checks everything but the signature and the role's paths.
func (p *Provider) accepts(m *claims, now time.Time) error {
	exp, err := m.Expires.Float64()
	switch {
	case err != nil:
		return errors.New("token: no exp")
	case now.Add(-leeway).Unix() >= int64(exp):
		return errors.New("token: expired")
	case p.Issuer != "" && p.Issuer != m.Issuer:
		return errors.New("token: of another issuer than this key's")
	case p.Audience != "" && !hasAudience(m.Audience, p.Audience):
		return errors.New("token: for another audience")
	case m.Role == "":
		return errors.New("token: no role")
	}
	if m.NotBefore == "" {
		return nil
	}
	if nbf, err := m.NotBefore.Float64(); err != nil || now.Add(leeway).Unix() < int64(nbf) {
		return errors.New("token: not good yet")
	}
	return nil
}

// hasAudience takes a string or a list of them.
func hasAudience(raw json.RawMessage, want string) bool {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return one == want
	}
	var l []string
	return json.Unmarshal(raw, &l) == nil && slices.Contains(l, want)
}
