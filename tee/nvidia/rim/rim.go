// Package rim reads NVIDIA's reference manifests: SWID tags (ISO 19770-2) whose
// payload lists the measurements that a driver or a VBIOS may show, with an
// enveloped XML signature.
//
// Invariants: bounded, never panics; the values come from the very tree whose
// canonical form is signed; one signature, over the whole document; anything
// outside the shape that NVIDIA's manifests have is an error. The caller says
// which roots and what time.
//
// Trust zone: trustee and owner.
package rim

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// Namespaces.
const (
	nsSWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
	nsHash = "http://www.w3.org/2001/04/xmlenc#sha384"
	nsRIM  = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"
)

// Limits of a manifest.
const (
	maxMeasurements = 256
	maxAlternatives = 64
	digestSize      = 48
)

// Manifest is a manifest whose signature was checked with its own certificate.
type Manifest struct {
	// Version is what it describes: "580.95.05", "96.00.74.00.1A".
	Version string
	Product string // "GH100"
	// Manufacturer and Edition of the platform name values of the published Reference
	// Value Provider Service; "": not said.
	Manufacturer, Edition string
	Golden                []Golden
	// Chain is the signer's chain, leaf first, root last. Nobody has verified it.
	Chain []*x509.Certificate
}

// Golden is one expected measurement.
type Golden struct {
	// Index counts from 0; the report's index is one more.
	Index int
	Name  string
	// Active: it is to be compared.
	Active bool
	// Values are alternatives.
	Values [][]byte
}

// ReportIndex gives the index that a report has for the measurement.
func (g *Golden) ReportIndex() int { return g.Index + 1 }

// Decode takes a manifest as the RIM service gives it, JSON around base64, or as
// the bare tag. A given id must be the service's.
func Decode(b []byte, id string) (*Manifest, error) {
	if len(b) > 2*MaxXML {
		return nil, fmt.Errorf("reference manifest: %d bytes, at most %d", len(b), 2*MaxXML)
	}
	if len(b) > 0 && b[0] == '{' {
		var err error
		if b, err = unwrap(b, id); err != nil {
			return nil, fmt.Errorf("reference manifest: %w", err)
		}
	}
	return Parse(b)
}

func unwrap(b []byte, id string) ([]byte, error) {
	m, err := jsonobject.Members(b, 2*MaxXML)
	if err != nil {
		return nil, err
	}
	have, err := jsonobject.Required[string](m, "id")
	if err != nil {
		return nil, err
	}
	if have != id {
		return nil, fmt.Errorf("id %.80q is not %q", have, id)
	}
	text, err := jsonobject.Required[string](m, "rim")
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.Strict().DecodeString(text)
}

// Parse reads a tag and checks its signature with the certificate in it.
func Parse(b []byte) (*Manifest, error) {
	m, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("reference manifest: %w", err)
	}
	return m, nil
}

// ErrSignature says that the manifest is not what was signed.
var ErrSignature = errors.New("the signature does not fit")

func parse(b []byte) (*Manifest, error) {
	root, err := parseXML(b)
	if err != nil {
		return nil, err
	}
	if err := root.is(nsSWID, "SoftwareIdentity", "corpus", "name", "patch", "supplemental", "tagId", "version", "tagVersion"); err != nil {
		return nil, err
	}
	parts, err := root.only(4)
	if err != nil {
		return nil, err
	}
	entity, meta, payload, signature := parts[0], parts[1], parts[2], parts[3]
	if err := entity.is(nsSWID, "Entity", "name", "role"); err != nil {
		return nil, err
	}
	m := new(Manifest)
	if err := m.readMeta(meta); err != nil {
		return nil, err
	}
	if err := m.readPayload(payload); err != nil {
		return nil, err
	}
	if m.Chain, err = checkSignature(root, signature); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Manifest) readMeta(e *element) error {
	if err := e.is(nsSWID, "Meta", "colloquialVersion", "edition", "product", "revision", "PayloadType", nsRIM); err != nil {
		return err
	}
	m.Version, m.Product = e.attr("", "colloquialVersion"), e.attr("", "product")
	m.Manufacturer, m.Edition = e.attr(nsRIM, "PlatformManufacturerStr"), e.attr("", "edition")
	if m.Version == "" || e.attr("", "PayloadType") != "direct" {
		return errors.New("no version, or a payload that is not in the manifest")
	}
	return nil
}

func (m *Manifest) readPayload(e *element) error {
	if err := e.is(nsSWID, "Payload"); err != nil {
		return err
	}
	list, err := e.only(-1)
	if err != nil {
		return err
	}
	if len(list) == 0 || len(list) > maxMeasurements {
		return fmt.Errorf("%d measurements, at least 1 and at most %d", len(list), maxMeasurements)
	}
	seen := map[int]bool{}
	for _, r := range list {
		g, err := readResource(r)
		if err != nil {
			return err
		}
		if seen[g.Index] {
			return fmt.Errorf("measurement %d comes twice", g.Index)
		}
		seen[g.Index] = true
		m.Golden = append(m.Golden, g)
	}
	return nil
}

func readResource(e *element) (g Golden, err error) {
	if err := e.is(nsSWID, "Resource", "type", "index", "active", "alternatives", "name", "size", nsHash); err != nil {
		return g, err
	}
	if g.Index, err = number(e.attr("", "index"), maxMeasurements-1); err != nil {
		return g, fmt.Errorf("index: %w", err)
	}
	g.Name = e.attr("", "name")
	switch e.attr("", "active") {
	case "True":
		g.Active = true
	case "False":
	default:
		return g, fmt.Errorf("measurement %d: neither active nor not", g.Index)
	}
	if e.attr("", "type") != "Measurement" || e.attr("", "size") != strconv.Itoa(digestSize) {
		return g, fmt.Errorf("measurement %d: not one of %d bytes", g.Index, digestSize)
	}
	n, err := number(e.attr("", "alternatives"), maxAlternatives)
	if err != nil || n == 0 {
		return g, fmt.Errorf("measurement %d: number of alternatives", g.Index)
	}
	hashes := 0
	for _, a := range e.attrs {
		if a.uri == nsHash {
			hashes++
		}
	}
	if hashes != n {
		return g, fmt.Errorf("measurement %d: %d values, not %d", g.Index, hashes, n)
	}
	for i := range n {
		v, err := hex.DecodeString(e.attr(nsHash, "Hash"+strconv.Itoa(i)))
		if err != nil || len(v) != digestSize {
			return g, fmt.Errorf("measurement %d: value %d", g.Index, i)
		}
		g.Values = append(g.Values, v)
	}
	return g, nil
}

// number reads a decimal number without sign and leading zeros.
func number(s string, most int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most || strconv.Itoa(n) != s {
		return 0, fmt.Errorf("%.20q is no number up to %d", s, most)
	}
	return n, nil
}

// is demands an element's name, and of its attributes that they are listed: bare
// names, and namespaces of which any is taken.
func (e *element) is(uri, local string, attrs ...string) error {
	if e.uri != uri || e.local != local {
		return fmt.Errorf("element %.40q where %s should be", e.local, local)
	}
next:
	for _, a := range e.attrs {
		for _, n := range attrs {
			if a.uri == "" && a.local == n || a.uri != "" && a.uri == n {
				continue next
			}
		}
		return fmt.Errorf("element %s: unknown attribute %.40q", local, a.local)
	}
	return nil
}

func (e *element) attr(uri, local string) string {
	for _, a := range e.attrs {
		if a.uri == uri && a.local == local {
			return a.value
		}
	}
	return ""
}

// only gives the child elements, n of them unless n is negative, with nothing
// but space between.
func (e *element) only(n int) ([]*element, error) {
	var out []*element
	for _, c := range e.children {
		if c.elem != nil {
			out = append(out, c.elem)
		} else if strings.Trim(c.text, " \t\n") != "" {
			return nil, fmt.Errorf("element %s: text", e.local)
		}
	}
	if n >= 0 && len(out) != n {
		return nil, fmt.Errorf("element %s: %d elements, not %d", e.local, len(out), n)
	}
	return out, nil
}

// textOf gives the text of an element without children.
func (e *element) textOf() (string, error) {
	var b strings.Builder
	for _, c := range e.children {
		if c.elem != nil {
			return "", fmt.Errorf("element %s: elements", e.local)
		}
		b.WriteString(c.text)
	}
	return b.String(), nil
}

// Wrap gives a tag as the RIM service does.
func Wrap(id string, tag []byte) ([]byte, error) {
	return json.Marshal(map[string]string{"id": id, "rim": base64.StdEncoding.EncodeToString(tag)})
}
