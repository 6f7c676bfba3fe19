// Package digest is the content digest of the OCI image specification
// ("descriptor.md", section Digests): "sha256:<64 hex>" or "sha512:<128 hex>".
//
// Invariant: a Digest made by Parse is canonical (known algorithm, lower-case
// hex of the right length), so two equal digests are equal strings and a digest
// is safe inside a path or URL.
//
// Trust zone: shared by guest and owner.
package digest

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Digest is "algorithm:hex". The zero value is no digest.
type Digest string

// MismatchError says that content is not what its digest says.
type MismatchError struct {
	What     string // "layer blob", "manifest", ...
	Expected Digest
	Actual   Digest
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s has digest %s, expected %s", e.What, e.Actual, e.Expected)
}

// Parse checks s and gives it as a Digest. Algorithms other than sha256 and
// sha512 are refused: the specification registers no further secure one.
func Parse(s string) (Digest, error) {
	alg, enc, ok := strings.Cut(s, ":")
	if !ok {
		return "", fmt.Errorf("digest %.80q: no algorithm", s)
	}
	var want int
	switch alg {
	case "sha256":
		want = sha256.Size * 2
	case "sha512":
		want = sha512.Size * 2
	default:
		return "", fmt.Errorf("digest %.80q: algorithm %.20q is neither sha256 nor sha512", s, alg)
	}
	if len(enc) != want {
		return "", fmt.Errorf("digest %.160q: %d hex digits, expected %d", s, len(enc), want)
	}
	for i := range len(enc) {
		if c := enc[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", fmt.Errorf("digest %q: character %q is not lower-case hex", s, c)
		}
	}
	return Digest(s), nil
}

// UnmarshalText makes decoders accept canonical digests only.
func (d *Digest) UnmarshalText(b []byte) error {
	v, err := Parse(string(b))
	if err != nil {
		return err
	}
	*d = v
	return nil
}

// Algorithm gives "sha256" or "sha512".
func (d Digest) Algorithm() string {
	alg, _, _ := strings.Cut(string(d), ":")
	return alg
}

// Hex gives what follows the algorithm.
func (d Digest) Hex() string {
	_, enc, _ := strings.Cut(string(d), ":")
	return enc
}

// String gives "algorithm:hex".
func (d Digest) String() string { return string(d) }

// NewHash gives an empty hash of d's algorithm. d must come from Parse.
func (d Digest) NewHash() hash.Hash {
	if d.Algorithm() == "sha512" {
		return sha512.New()
	}
	return sha256.New()
}

// Check compares what h has consumed with d; h must come from d.NewHash.
func (d Digest) Check(what string, h hash.Hash) error {
	if got := fromHash(d.Algorithm(), h); got != d {
		return &MismatchError{What: what, Expected: d, Actual: got}
	}
	return nil
}

// CheckBytes compares b with d.
func (d Digest) CheckBytes(what string, b []byte) error {
	h := d.NewHash()
	h.Write(b)
	return d.Check(what, h)
}

// FromBytes gives the sha256 digest of b.
func FromBytes(b []byte) Digest {
	s := sha256.Sum256(b)
	return Digest("sha256:" + hex.EncodeToString(s[:]))
}

// FromSHA256 gives the digest that a SHA-256 hash has arrived at.
func FromSHA256(h hash.Hash) Digest { return fromHash("sha256", h) }

func fromHash(alg string, h hash.Hash) Digest {
	return Digest(alg + ":" + hex.EncodeToString(h.Sum(nil)))
}
