// Package corim reads Concise Reference Integrity Manifests (draft-ietf-rats-corim;
// SPEC.md), unsigned or as COSE_Sign1, and gives the reference values of their CoMID
// tags by the names that the published Reference Value Provider Service gives them.
//
// Invariants: bounded in size, depth and count, deterministic map keys; what would
// make a value mean more than its name says (an instance, a group, a mask, a
// condition) is refused and not passed over; a signed manifest says until when it
// counts, and its values come from the very bytes that are signed.
//
// Trust zone: owner and vendors write, trustee reads.
package corim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/cofferproject/coffer/api/refvalue"
)

// Limits of a manifest.
const (
	MaxSize  = 4 << 20 // bytes
	maxDepth = 24
	maxItems = 4096 // of one list or map
	maxTags  = 256
	maxID    = 256 // bytes
)

// CBOR tags.
const (
	tagSign1    = 18
	tagUUID     = 37
	tagEither   = 500 // of drafts before there was a choice of types
	tagUnsigned = 501
	tagSigned   = 502 // of such drafts
	tagCoMID    = 506
	tagBytes    = 560
)

var decoder = func() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, MaxNestedLevels: maxDepth,
		MaxArrayElements: maxItems, MaxMapPairs: maxItems, TimeTag: cbor.DecTagRequired, UTF8: cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		panic(err) // constants
	}
	return m
}()

// Manifest is a manifest whose signature nobody has checked yet.
type Manifest struct {
	ID string // text, or the hex of a UUID
	// Values are the reference values by name.
	Values map[string]any
	// NotBefore and Expires say when it counts; zero: not said. A signed one has the
	// latter.
	NotBefore, Expires time.Time
	// Signed says that there is a signature.
	Signed bool

	message *cose.Sign1Message
}

// Is reports whether a document is CBOR with a tag, and so no bundle in JSON.
func Is(doc []byte) bool { return len(doc) > 0 && doc[0]>>5 == 6 }

// Parse reads a manifest without checking its signature.
func Parse(b []byte) (*Manifest, error) {
	m, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("corim: %w", err)
	}
	return m, nil
}

func parse(b []byte) (*Manifest, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%d bytes, at most %d", len(b), MaxSize)
	}
	for _, outer := range []uint64{tagEither, tagSigned} {
		if n, content, err := tagged(b); err == nil && n == outer {
			b = content
		}
	}
	n, content, err := tagged(b)
	if err != nil {
		return nil, err
	}
	m := new(Manifest)
	switch n {
	case tagUnsigned:
		err = m.read(content)
	case tagSign1:
		err = m.readSigned(b)
	default:
		err = fmt.Errorf("tag %d is neither a manifest (%d) nor COSE_Sign1 (%d)", n, tagUnsigned, tagSign1)
	}
	if err != nil {
		return nil, err
	}
	if !m.Expires.IsZero() && !m.NotBefore.Before(m.Expires) {
		return nil, errors.New("validity ends before it begins")
	}
	return m, nil
}

// tagged splits a tag from its content. Wellformed is the whole of the bytes.
func tagged(b []byte) (uint64, []byte, error) {
	var t cbor.RawTag
	if err := decoder.Unmarshal(b, &t); err != nil {
		return 0, nil, err
	}
	return t.Number, t.Content, nil
}

// manifestMap is corim-map.
type manifestMap struct {
	ID         cbor.RawMessage   `cbor:"0,keyasint"`
	Tags       []cbor.RawMessage `cbor:"1,keyasint"`
	Dependents cbor.RawMessage   `cbor:"2,keyasint,omitempty"`
	Profile    cbor.RawMessage   `cbor:"3,keyasint,omitempty"`
	Validity   *validity         `cbor:"4,keyasint,omitempty"`
	Entities   cbor.RawMessage   `cbor:"5,keyasint,omitempty"`
}

// validity is validity-map.
type validity struct {
	NotBefore *time.Time `cbor:"0,keyasint,omitempty"`
	NotAfter  *time.Time `cbor:"1,keyasint"`
}

func (m *Manifest) read(b []byte) error {
	var w manifestMap
	if err := decoder.Unmarshal(b, &w); err != nil {
		return err
	}
	var err error
	if m.ID, err = identity(w.ID); err != nil {
		return fmt.Errorf("id: %w", err)
	}
	if len(w.Tags) == 0 || len(w.Tags) > maxTags {
		return fmt.Errorf("%d tags, at least 1 and at most %d", len(w.Tags), maxTags)
	}
	if err := m.narrow(w.Validity); err != nil {
		return err
	}
	v := values{}
	for i, raw := range w.Tags {
		if err := v.tag(raw); err != nil {
			return fmt.Errorf("tags[%d]: %w", i, err)
		}
	}
	if len(v) == 0 {
		return errors.New("no reference values that have a name here")
	}
	m.Values = v
	return (&refvalue.Bundle{Version: refvalue.Version, Values: m.Values}).Validate()
}

// narrow takes a period into account; of several the shortest counts.
func (m *Manifest) narrow(v *validity) error {
	if v == nil {
		return nil
	}
	if v.NotAfter == nil || v.NotAfter.IsZero() {
		return errors.New("validity without an end")
	}
	if v.NotBefore != nil && v.NotBefore.After(m.NotBefore) {
		m.NotBefore = v.NotBefore.UTC()
	}
	if end := v.NotAfter.UTC().Truncate(time.Second); m.Expires.IsZero() || end.Before(m.Expires) {
		m.Expires = end
	}
	return nil
}

// identity reads the id of a manifest: text or a UUID.
func identity(raw cbor.RawMessage) (string, error) {
	var s string
	if decoder.Unmarshal(raw, &s) == nil {
		if s == "" || len(s) > maxID {
			return "", fmt.Errorf("%d bytes", len(s))
		}
		return s, nil
	}
	return uuidOf(raw)
}

// uuidOf reads a UUID, with its tag or as bare bytes.
func uuidOf(raw cbor.RawMessage) (string, error) {
	if n, content, err := tagged(raw); err == nil {
		if n != tagUUID {
			return "", fmt.Errorf("tag %d is no UUID", n)
		}
		raw = content
	}
	var b []byte
	if err := decoder.Unmarshal(raw, &b); err != nil || len(b) != 16 {
		return "", errors.New("neither text nor a UUID")
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// Bundle gives the values as a bundle of reference values.
func (m *Manifest) Bundle() *refvalue.Bundle {
	return &refvalue.Bundle{
		Version: refvalue.Version, Provenance: refvalue.Provenance{Tool: "CoRIM " + m.ID}, Values: m.Values, Expires: m.Expires,
	}
}

// contentTypes say that what is signed is a manifest, by the drafts' names.
var contentTypes = []string{"application/rim+cbor", "application/corim-unsigned+cbor"}

const (
	headerMeta = int64(8) // corim-meta
	maxParams  = 16
)

// metaMap is corim-meta-map.
type metaMap struct {
	Signer   cbor.RawMessage `cbor:"0,keyasint"`
	Validity *validity       `cbor:"1,keyasint,omitempty"`
}

func (m *Manifest) readSigned(b []byte) error {
	msg := cose.NewSign1Message()
	if err := msg.UnmarshalCBOR(b); err != nil {
		return err
	}
	h := msg.Headers.Protected
	if len(h) > maxParams || len(msg.Headers.Unprotected) > maxParams {
		return errors.New("too many headers")
	}
	if _, ok := h[cose.HeaderLabelCritical]; ok {
		return errors.New("critical headers are not supported")
	}
	if ct, _ := h[cose.HeaderLabelContentType].(string); !slices.Contains(contentTypes, ct) {
		return fmt.Errorf("content type %.80q is none of %s", ct, contentTypes)
	}
	if raw, ok := h[headerMeta]; ok {
		text, ok := raw.([]byte)
		if !ok {
			return errors.New("corim-meta is no byte string")
		}
		var meta metaMap
		if err := decoder.Unmarshal(text, &meta); err != nil {
			return fmt.Errorf("corim-meta: %w", err)
		}
		if err := m.narrow(meta.Validity); err != nil {
			return fmt.Errorf("corim-meta: %w", err)
		}
	}
	payload := msg.Payload
	if n, content, err := tagged(payload); err == nil {
		if n != tagUnsigned {
			return fmt.Errorf("payload with tag %d", n)
		}
		payload = content
	}
	if err := m.read(payload); err != nil {
		return err
	}
	if m.Expires.IsZero() {
		return errors.New("signed, and does not say until when it counts")
	}
	m.Signed, m.message = true, msg
	return nil
}
