// Package certchain verifies chains of device certificates that come in a fixed
// order, against roots that are known by their public keys.
//
// Invariants: the chain that is verified is exactly the one that came, in its
// order, without a certificate to spare; no network; nothing is skipped.
//
// Trust zone: trustee and owner.
package certchain

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Limits of a chain.
const (
	MaxCertificates = 10
	MaxCertificate  = 8 << 10 // bytes of DER
)

// Errors that callers tell apart. What is none of them is a malformed chain.
var (
	// ErrUntrusted: it ends in another root, or a signature or a constraint is wrong.
	ErrUntrusted = errors.New("the chain does not lead to a trusted root")
	// ErrExpired: a certificate is past its end or before its begin.
	ErrExpired = errors.New("a certificate is not valid at this time")
)

// ParsePEM reads PEM certificates and nothing else, in their order.
func ParsePEM(b []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for len(bytes.TrimSpace(b)) > 0 {
		// Decode skips what it does not understand; a block that does not start
		// right here is something else.
		b = bytes.TrimLeft(b, " \t\r\n")
		if !bytes.HasPrefix(b, []byte("-----BEGIN CERTIFICATE-----")) {
			return nil, errors.New("something else than a PEM certificate")
		}
		block, rest := pem.Decode(b)
		if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, errors.New("a PEM certificate is broken")
		}
		der := block.Bytes
		// pem.Decode may have skipped a broken block to a good one behind it.
		if bytes.Count(b[:len(b)-len(rest)], []byte("-----BEGIN")) != 1 {
			return nil, errors.New("a PEM certificate is broken")
		}
		c, err := Parse(der)
		if err != nil {
			return nil, err
		}
		if out = append(out, c); len(out) > MaxCertificates {
			return nil, fmt.Errorf("more than %d certificates", MaxCertificates)
		}
		b = rest
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate")
	}
	return out, nil
}

// Parse reads one certificate, bounded.
func Parse(der []byte) (*x509.Certificate, error) {
	if len(der) > MaxCertificate {
		return nil, fmt.Errorf("certificate of %d bytes, at most %d", len(der), MaxCertificate)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return c, nil
}

// SPKI is the SHA-256 of a certificate's public key (SubjectPublicKeyInfo).
func SPKI(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// Verify checks a chain, leaf first and its root last. The root must have the
// public key of one of roots and have signed itself; the copy in roots is what
// is believed, and given back.
func Verify(chain, roots []*x509.Certificate, now time.Time) (*x509.Certificate, error) {
	if len(chain) < 2 {
		return nil, fmt.Errorf("%w: %d certificates, at least 2", ErrUntrusted, len(chain))
	}
	last := chain[len(chain)-1]
	i := slices.IndexFunc(roots, func(r *x509.Certificate) bool { return SPKI(r) == SPKI(last) })
	if i < 0 {
		return nil, fmt.Errorf("%w: root with public key %x", ErrUntrusted, SPKI(last))
	}
	root := roots[i]
	if !last.Equal(root) {
		// Issued anew under the same key; anything else was bent.
		if err := last.CheckSignatureFrom(last); err != nil {
			return nil, fmt.Errorf("%w: root %s: %w", ErrUntrusted, last.Subject, err)
		}
	}
	for _, c := range append(slices.Clone(chain[:len(chain)-1]), root) {
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			return nil, fmt.Errorf("%w: %s, valid from %s to %s", ErrExpired, c.Subject, c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	opts.Roots.AddCert(root)
	for _, c := range chain[1 : len(chain)-1] {
		opts.Intermediates.AddCert(c)
	}
	found, err := chain[0].Verify(opts)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	want := append(slices.Clone(chain[:len(chain)-1]), root)
	for _, f := range found {
		if slices.EqualFunc(f, want, (*x509.Certificate).Equal) {
			return root, nil
		}
	}
	return nil, fmt.Errorf("%w: the certificates do not follow each other as they came", ErrUntrusted)
}

// EmbeddedRoot reads a root from the program's own text: one certificate that
// signed itself, with a public key of the given SHA-256 (hex).
func EmbeddedRoot(text, spki string) (*x509.Certificate, error) {
	certs, err := ParsePEM([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("embedded root: %w", err)
	}
	if len(certs) != 1 {
		return nil, fmt.Errorf("embedded root: %d certificates", len(certs))
	}
	c := certs[0]
	if err := c.CheckSignatureFrom(c); err != nil {
		return nil, fmt.Errorf("embedded root %s: %w", c.Subject, err)
	}
	if have := fmt.Sprintf("%x", SPKI(c)); have != spki {
		return nil, fmt.Errorf("embedded root %s: public key %s, not %s", c.Subject, have, spki)
	}
	return c, nil
}

// P384 gives a certificate's public key if it is one of that curve.
func P384(c *x509.Certificate) (*ecdsa.PublicKey, error) {
	k, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P384() {
		return nil, fmt.Errorf("key of %s is no P-384 key", c.Subject)
	}
	return k, nil
}
