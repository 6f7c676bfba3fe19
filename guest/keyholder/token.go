package keyholder

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/ear"
)

const (
	maxTokenLifetime = 24 * time.Hour
	maxTokenChain    = 8
)

// acceptToken reads how long a token is valid, and the time if it is signed
// under the CA in initdata by a certificate for that. A token is no proof to the guest, the TLS channel
// was; so one without such a signature only gives no time.
func (c *client) acceptToken(token string) (time.Duration, error) {
	t, err := parseToken(token)
	if err != nil {
		return 0, c.protocol("token: %v", err)
	}
	lifetime := min(t.exp.Sub(t.iat), maxTokenLifetime)
	if lifetime <= expirySkew {
		return 0, c.protocol("token: valid for %s only", lifetime)
	}
	if len(t.chain) == 0 {
		c.log.Warn("the token carries no certificates; there is no signed time")
		return lifetime, nil
	}
	if err := t.verify(); err != nil {
		return 0, c.protocol("token: %v", err)
	}
	// The CA's other certificates, such as that of the trustee's TLS key, which
	// lies where the network ends, sign no time.
	if !namesSigner(t.chain[0]) {
		c.log.Warn("the token's signer is not named as one; there is no signed time", "want", ear.SignerURI)
		return lifetime, nil
	}
	first := !c.clock.Signed()
	err = c.clock.VerifyChain(t.chain, c.roots, "", x509.ExtKeyUsageAny)
	if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
		c.log.Warn("the token's signer does not lead to the CA in initdata; there is no signed time", "error", err)
		return lifetime, nil
	}
	if err != nil {
		return 0, c.protocol("token: signer: %v", err)
	}
	if err := c.clock.Observe(t.iat); err != nil {
		return 0, c.protocol("token: %v", err)
	}
	if first {
		// What was accepted without knowing the time is checked again with it:
		// the server, and the signer.
		c.checkServersAgain()
		if err := c.clock.VerifyChain(t.chain, c.roots, "", x509.ExtKeyUsageAny); err != nil {
			return 0, c.protocol("token: signer: %v", err)
		}
	}
	return lifetime, nil
}

// namesSigner says whether the certificate is for signing tokens.
func namesSigner(cert *x509.Certificate) bool {
	return slices.ContainsFunc(cert.URIs, func(u *url.URL) bool { return u.String() == ear.SignerURI })
}

// token is a JWT with the certificates of its signer.
type token struct {
	signed   []byte // signing input
	sig      []byte
	chain    []*x509.Certificate
	iat, exp time.Time
}

func parseToken(s string) (*token, error) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return nil, errors.New("not three parts")
	}
	var raw [3][]byte
	for i, p := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(p); err != nil {
			return nil, err
		}
	}
	var header struct {
		Alg string   `json:"alg"`
		X5C []string `json:"x5c"`
		JWK struct {
			X5C []string `json:"x5c"`
		} `json:"jwk"`
	}
	var claims struct {
		IAT int64 `json:"iat"`
		EXP int64 `json:"exp"`
	}
	if err := json.Unmarshal(raw[0], &header); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if err := json.Unmarshal(raw[1], &claims); err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	const year9999 = 253402300799
	if claims.IAT <= 0 || claims.EXP <= claims.IAT || claims.EXP > year9999 {
		return nil, errors.New("iat or exp missing or out of range")
	}
	t := &token{
		signed: []byte(parts[0] + "." + parts[1]), sig: raw[2],
		iat: time.Unix(claims.IAT, 0), exp: time.Unix(claims.EXP, 0),
	}
	x5c := header.JWK.X5C
	if len(x5c) == 0 {
		x5c = header.X5C
	}
	if len(x5c) > maxTokenChain {
		return nil, errors.New("too many certificates")
	}
	for _, b := range x5c {
		der, err := base64.StdEncoding.DecodeString(b)
		if err != nil {
			return nil, fmt.Errorf("x5c: %w", err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("x5c: %w", err)
		}
		t.chain = append(t.chain, cert)
	}
	if len(t.chain) > 0 && header.Alg != "ES256" {
		return nil, fmt.Errorf("alg %.20q is not supported", header.Alg)
	}
	return t, nil
}

// verify checks the signature with the first certificate's key.
func (t *token) verify() error {
	k, ok := t.chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || k.Params().BitSize != 256 || len(t.sig) != 64 {
		return errors.New("signer's key or signature is not ES256")
	}
	d := sha256.Sum256(t.signed)
	if !ecdsa.Verify(k, d[:], new(big.Int).SetBytes(t.sig[:32]), new(big.Int).SetBytes(t.sig[32:])) {
		return errors.New("signature does not verify")
	}
	return nil
}
