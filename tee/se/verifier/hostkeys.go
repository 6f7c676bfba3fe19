package verifier

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// maxHostKeyFile bounds a document of host keys, in bytes.
const maxHostKeyFile = 256 << 10

// ParseHostKeys reads public host keys in PEM: host key documents (certificates)
// or bare public keys, on P-521, each once. Who registers them vouches for them:
// no chain to IBM is looked at here.
func ParseHostKeys(b []byte) ([]*ecdh.PublicKey, error) {
	fail := func(n int, err error) ([]*ecdh.PublicKey, error) {
		return nil, fmt.Errorf("se host keys: key %d: %w", n, err)
	}
	if len(b) > maxHostKeyFile {
		return nil, fmt.Errorf("se host keys: %d bytes, at most %d", len(b), maxHostKeyFile)
	}
	var out []*ecdh.PublicKey
	for n := 1; len(bytes.TrimSpace(b)) > 0; n++ {
		block, rest := pem.Decode(b)
		if block == nil {
			return fail(n, errors.New("not PEM"))
		}
		if n > maxHostKeys {
			return fail(n, fmt.Errorf("more than %d", maxHostKeys))
		}
		b = rest
		k, err := hostKey(block)
		if err != nil {
			return fail(n, err)
		}
		if slices.ContainsFunc(out, func(o *ecdh.PublicKey) bool { return o.Equal(k) }) {
			return fail(n, errors.New("comes twice"))
		}
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil, errors.New("se host keys: none")
	}
	return out, nil
}

func hostKey(block *pem.Block) (*ecdh.PublicKey, error) {
	var pub any
	var err error
	switch block.Type {
	case "CERTIFICATE":
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(block.Bytes); err == nil {
			pub = c.PublicKey
		}
	case "PUBLIC KEY":
		pub, err = x509.ParsePKIXPublicKey(block.Bytes)
	default:
		err = fmt.Errorf("a block of type %.40q", block.Type)
	}
	if err != nil {
		return nil, err
	}
	e, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("not on P-521")
	}
	k, err := e.ECDH()
	if err != nil {
		return nil, err
	}
	_, err = coordinates(k)
	return k, err
}
