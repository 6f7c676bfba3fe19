package trustauthority

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	maxToken = 64 << 10 // bytes
	// maxSkew is by how much the service's clock may be off, and how old its answer.
	maxSkew = 2 * time.Minute
	maxID   = 128
)

// policyResult is a policy that the service has asked.
type policyResult struct {
	ID      string `json:"id"`
	Version string `json:"version"`
	Hash    string `json:"hash"`
}

// claims are what is read of a token.
type claims struct {
	IssuedAt  int64           `json:"iat"`
	NotBefore int64           `json:"nbf"`
	Expires   int64           `json:"exp"`
	ID        string          `json:"jti"`
	Matched   []policyResult  `json:"policy_ids_matched"`
	Unmatched []policyResult  `json:"policy_ids_unmatched"`
	TDX       json.RawMessage `json:"tdx"`
	SGX       json.RawMessage `json:"sgx"`
}

// verify gives the claims of a token that one of the service's keys has signed and that
// is fresh. The service signs with PS384 unless it is asked not to.
func (k *keys) verify(token string, now time.Time) (*claims, error) {
	if len(token) > maxToken {
		return nil, fmt.Errorf("more than %d bytes", maxToken)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("not a signed token")
	}
	var raw [3][]byte
	for i, p := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil {
			return nil, errors.New("not base64url")
		}
	}
	var head struct {
		Alg  string          `json:"alg"`
		ID   string          `json:"kid"`
		Crit json.RawMessage `json:"crit"`
	}
	if err := json.Unmarshal(raw[0], &head); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if head.Alg != "PS384" || head.Crit != nil {
		return nil, fmt.Errorf("signed by %.20q, not PS384, or with critical extensions", head.Alg)
	}
	key, err := k.of(head.ID)
	if err != nil {
		return nil, err
	}
	pub, ok := key.Public.(*rsa.PublicKey)
	if !ok || key.Algorithm != "" && key.Algorithm != head.Alg {
		return nil, fmt.Errorf("key %.60q is not for PS384", head.ID)
	}
	sum := sha512.Sum384([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPSS(pub, crypto.SHA384, sum[:], raw[2], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}); err != nil {
		return nil, errors.New("the signature does not verify")
	}
	c := new(claims)
	if err := json.NewDecoder(bytes.NewReader(raw[1])).Decode(c); err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	return c, c.fresh(now)
}

func (c *claims) fresh(now time.Time) error {
	at := func(unix int64) time.Time { return time.Unix(unix, 0) }
	switch {
	case c.IssuedAt <= 0 || c.Expires <= 0:
		return errors.New("without iat or exp")
	case !now.Before(at(c.Expires)):
		return fmt.Errorf("expired at %s", at(c.Expires).UTC().Format(time.RFC3339))
	case at(c.IssuedAt).Before(now.Add(-maxSkew)), at(c.IssuedAt).After(now.Add(maxSkew)), at(c.NotBefore).After(now.Add(maxSkew)):
		return fmt.Errorf("issued at %s: not the answer to this question, or one of the clocks is wrong", at(c.IssuedAt).UTC().Format(time.RFC3339))
	case len(c.ID) > maxID:
		return errors.New("jti is too long")
	case len(c.Matched)+len(c.Unmatched) > 4*maxPolicies:
		return errors.New("of too many policies")
	}
	return nil
}
