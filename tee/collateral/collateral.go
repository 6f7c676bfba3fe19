// Package collateral keeps what vendors publish and verifiers need: certificates
// of keys, revocation lists, TCB information, identities, reference manifests.
// Verifiers never fetch: who runs them has fetched ahead, or imports a bundle
// (design.md section 5: no network on the verification path).
//
// Every item is named by its canonical origin, the URL under which its vendor
// publishes it; the package of a TEE says how it spells them. Items prove
// themselves by signatures and hashes that their reader checks; nothing here
// vouches for one.
//
// Trust zone: trustee and owner.
package collateral

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/tee/internal/jsonobject"
)

// Version is the only version of the bundle's format (SPEC.md).
const Version = 1

// Limits of a bundle.
const (
	MaxBundle = 64 << 20
	MaxItems  = 100_000
	MaxBody   = 8 << 20
	maxOrigin = 2048
)

// Item is one published document.
type Item struct {
	// Origin is its canonical URL.
	Origin string `json:"origin"`
	// Body is the document as published: DER, JSON, PEM.
	Body []byte `json:"body"`
	// Chain is the issuer chain in PEM, leaf first, where the vendor sends it
	// beside the body (Intel's ...-Issuer-Chain headers, URL-decoded).
	Chain []byte `json:"chain,omitempty"`
	// Fetched is when it came from there, UTC.
	Fetched time.Time `json:"fetched"`
}

// Digest names the content, for caches of parsed items.
func (i *Item) Digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "%d:", len(i.Body))
	h.Write(i.Body)
	h.Write(i.Chain)
	return hex.EncodeToString(h.Sum(nil))
}

// Source gives items by origin. Implementations are safe for concurrent use, and
// what they give must not be changed.
type Source interface {
	Get(origin string) (*Item, bool)
}

// Set is an immutable Source.
type Set struct{ items map[string]*Item }

// NewSet makes a Set; of two items of one origin the later one counts.
func NewSet(items ...*Item) *Set {
	s := &Set{items: make(map[string]*Item, len(items))}
	for _, i := range items {
		s.items[i.Origin] = i
	}
	return s
}

// Get implements Source.
func (s *Set) Get(origin string) (*Item, bool) {
	i, ok := s.items[origin]
	return i, ok
}

// Items lists all, sorted by origin.
func (s *Set) Items() []*Item {
	out := make([]*Item, 0, len(s.items))
	for _, i := range s.items {
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b *Item) int { return strings.Compare(a.Origin, b.Origin) })
	return out
}

type bundle struct {
	Version int     `json:"version"`
	Items   []*Item `json:"items"`
}

// Encode gives the bundle of all items.
func (s *Set) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(bundle{Version, s.Items()}, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encoding collateral: %w", err)
	}
	return append(b, '\n'), nil
}

// Parse reads a bundle: bounded, strict, every origin an https URL and named once.
func Parse(b []byte) (*Set, error) {
	var v bundle
	if err := jsonobject.Strict(b, MaxBundle, &v); err != nil {
		return nil, fmt.Errorf("decoding collateral: %w", err)
	}
	if v.Version != Version {
		return nil, fmt.Errorf("collateral: version %d is not supported, only %d", v.Version, Version)
	}
	if len(v.Items) > MaxItems {
		return nil, fmt.Errorf("collateral: %d items, at most %d", len(v.Items), MaxItems)
	}
	s := NewSet()
	for i, it := range v.Items {
		if err := it.validate(); err != nil {
			return nil, fmt.Errorf("collateral: items[%d]: %w", i, err)
		}
		if _, dup := s.items[it.Origin]; dup {
			return nil, fmt.Errorf("collateral: items[%d]: origin %s comes twice", i, it.Origin)
		}
		s.items[it.Origin] = it
	}
	return s, nil
}

func (i *Item) validate() error {
	if i == nil {
		return errors.New("null")
	}
	u, err := url.Parse(i.Origin)
	switch {
	case len(i.Origin) > maxOrigin:
		return errors.New("origin: too long")
	case err != nil || u.Scheme != "https" || u.Host == "" || u.Fragment != "":
		return fmt.Errorf("origin %.80q is not an https URL", i.Origin)
	case len(i.Body) == 0 || len(i.Body) > MaxBody:
		return fmt.Errorf("body: %d bytes, at least 1 and at most %d", len(i.Body), MaxBody)
	case len(i.Chain) > MaxBody:
		return fmt.Errorf("chain: %d bytes, at most %d", len(i.Chain), MaxBody)
	case i.Fetched.IsZero():
		return errors.New("fetched: missing")
	}
	return nil
}
