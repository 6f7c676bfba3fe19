package verifier

import (
	"bytes"
	"crypto/x509"
	"embed"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
)

// Product lines, as AMD's certificate service spells them.
const (
	Milan = "Milan"
	Genoa = "Genoa"
	Turin = "Turin"
)

// Products lists the product lines that have embedded roots.
var Products = []string{Milan, Genoa, Turin}

// rootFiles holds, for each product line, the root (ARK) and the two signing
// keys (ASK for VCEKs, ASVK for VLEKs). Each file names source and fingerprint.
//
//go:embed roots/*.pem
var rootFiles embed.FS

// anchor is a root with what it is trusted for.
type anchor struct {
	product   string // "": a simulated root, which plays any
	ark       *x509.Certificate
	ask, asvk *x509.Certificate // nil for a simulated root
}

// vendorAnchors parses the embedded roots once.
var vendorAnchors = sync.OnceValues(func() ([]*anchor, error) {
	out := make([]*anchor, 0, len(Products))
	for _, p := range Products {
		b, err := rootFiles.ReadFile("roots/" + strings.ToLower(p) + ".pem")
		if err != nil {
			return nil, fmt.Errorf("reading embedded roots: %w", err)
		}
		a := &anchor{product: p}
		for _, to := range []**x509.Certificate{&a.ark, &a.ask, &a.asvk} {
			var block *pem.Block
			if block, b = pem.Decode(b); block == nil {
				return nil, fmt.Errorf("embedded roots of %s: no certificate", p)
			}
			if *to, err = x509.ParseCertificate(block.Bytes); err != nil {
				return nil, fmt.Errorf("embedded roots of %s: %w", p, err)
			}
		}
		out = append(out, a)
	}
	return out, nil
})

func simulatedAnchors(roots []*x509.Certificate) []*anchor {
	out := make([]*anchor, len(roots))
	for i, c := range roots {
		out[i] = &anchor{ark: c}
	}
	return out
}

// isVendorRoot reports whether the certificate's key is an embedded root's.
func isVendorRoot(c *x509.Certificate) bool {
	as, err := vendorAnchors()
	if err != nil {
		return true
	}
	for _, a := range as {
		if bytes.Equal(a.ark.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo) {
			return true
		}
	}
	return false
}
