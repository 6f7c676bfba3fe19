package tenant

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/refvalue/corim"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/nvidia"
	"github.com/cofferproject/coffer/tee/nvidia/rim"
	nvidiaverifier "github.com/cofferproject/coffer/tee/nvidia/verifier"
	"github.com/cofferproject/coffer/trustee/store"
)

// Formats of documents with reference values.
const (
	FormatBundle = "bundle" // api/refvalue/SPEC.md
	FormatCoRIM  = "corim"  // api/refvalue/corim/SPEC.md
	FormatSWID   = "swid"   // a SWID tag as NVIDIA signs them
)

// document is one document with reference values, in whatever format.
type document struct {
	bundle    *refvalue.Bundle
	format    string
	notBefore time.Time // zero: not said
	// check verifies the signature for a namespace at a time and gives who has signed;
	// nil: nobody has.
	check func(tx store.Tx, n *trusteeapi.Namespace, now time.Time) (string, error)
}

// parseDocument tells the formats by their first bytes. A SWID tag's values are read
// with its signature, but whether its signer is believed is check's to say.
func parseDocument(doc []byte) (*document, error) {
	switch {
	case corim.Is(doc):
		m, err := corim.Parse(doc)
		if err != nil {
			return nil, err
		}
		d := &document{bundle: m.Bundle(), format: FormatCoRIM, notBefore: m.NotBefore}
		if m.Signed {
			d.check = func(tx store.Tx, n *trusteeapi.Namespace, _ time.Time) (string, error) {
				return manifestSigner(tx, n.Name, m)
			}
		}
		return d, nil
	case bytes.HasPrefix(bytes.TrimSpace(doc[:min(len(doc), 64)]), []byte("<")):
		return parseSWID(doc)
	}
	b, signed, err := parseBundle(doc)
	if err != nil {
		return nil, err
	}
	d := &document{bundle: b, format: FormatBundle}
	if signed != nil {
		d.check = func(tx store.Tx, n *trusteeapi.Namespace, _ time.Time) (string, error) {
			return signed.KeyID, verifyBundle(tx, n.Name, signed)
		}
	}
	return d, nil
}

// DocumentName gives the name under which a document that was registered without one
// is kept, so that its next version replaces it, and its format.
func DocumentName(doc []byte) (name, format string, err error) {
	d, err := parseDocument(doc)
	if err != nil {
		return "", "", invalid(err)
	}
	sum := sha256.Sum256([]byte(d.bundle.Provenance.Tool))
	return "rvps-" + d.format + "-" + hex.EncodeToString(sum[:8]), d.format, nil
}

// manifestSigner gives the owner whose key has signed a manifest. What the message
// says of its signer is not looked at.
func manifestSigner(tx store.Tx, ns string, m *corim.Manifest) (string, error) {
	all, err := store.List[trusteeapi.OwnerKey](tx, Bucket(ns, owners))
	if err != nil {
		return "", err
	}
	for _, k := range all {
		pub, err := parsePublic(k.PublicKey)
		if err != nil {
			return "", err
		}
		if m.Verify(pub) == nil {
			return k.ID, nil
		}
	}
	return "", fmt.Errorf("%w: reference values: the manifest's signature is none of an owner of namespace %s", ErrInvalid, ns)
}

// parseSWID reads a SWID tag in NVIDIA's shape, whose XML signature goes with it.
func parseSWID(doc []byte) (*document, error) {
	m, err := rim.Parse(doc)
	if err != nil {
		return nil, err
	}
	b := &refvalue.Bundle{Version: refvalue.Version, Provenance: refvalue.Provenance{Tool: "SWID tag " + m.Product + " " + m.Version}}
	if m.Manufacturer == "" || m.Edition == "" {
		return nil, errors.New("SWID tag: no manufacturer or edition, by which its values are named")
	}
	for i := range m.Golden {
		g := &m.Golden[i]
		name := strings.ReplaceAll(fmt.Sprintf("%s.%s.measurement_%d", strings.ReplaceAll(m.Manufacturer, " ", "_"), m.Edition, g.Index), "-", "_")
		for _, v := range g.Values {
			if slices.ContainsFunc(v, func(x byte) bool { return x != 0 }) {
				b.AddValues(name, hex.EncodeToString(v))
			}
		}
	}
	if len(b.Values) == 0 {
		return nil, errors.New("SWID tag: no values")
	}
	for _, c := range m.Chain {
		if end := c.NotAfter.UTC().Truncate(time.Second); b.Expires.IsZero() || end.Before(b.Expires) {
			b.Expires = end
		}
	}
	check := func(tx store.Tx, n *trusteeapi.Namespace, now time.Time) (string, error) {
		return swidSigner(tx, n, doc, now)
	}
	return &document{bundle: b, format: FormatSWID, check: check}, b.Validate()
}

// swidSigner verifies a tag's chain: to NVIDIA's root, or in a simulated namespace to
// that of simulated devices. NVIDIA's manifests were met in no outside vector, so that
// production has to allow them, as for devices.
func swidSigner(tx store.Tx, n *trusteeapi.Namespace, doc []byte, now time.Time) (string, error) {
	t := &Trust{Namespace: *n}
	if n.Simulated {
		if err := t.loadRoots(tx, n.Name); err != nil {
			return "", err
		}
		if len(t.SimulatedRoots(nvidia.WireName)) == 0 {
			return "", invalid(errors.New("SWID tag: the namespace knows no root of simulated NVIDIA devices"))
		}
	} else if !slices.Contains(n.AllowUnproven, nvidiaverifier.UnprovenRIM) {
		return "", invalid(fmt.Errorf("SWID tag: reading NVIDIA's manifests is unproven, and namespace %s does not allow %s", n.Name, nvidiaverifier.UnprovenRIM))
	}
	m, _, err := nvidiaverifier.OpenManifest(doc, t.SimulatedRoots(nvidia.WireName), now)
	if err != nil {
		return "", invalid(err)
	}
	sum := sha256.Sum256(m.Chain[0].RawSubjectPublicKeyInfo)
	return "x509:" + hex.EncodeToString(sum[:]), nil
}
