// Package initdata is the contract initdata 0.1.0: the document that configures
// one TEE (policy, trustee's address and CA, image settings) and whose digest
// the TEE's evidence binds. SPEC.md is the format.
//
// Invariants: the digest is over the plain bytes as they are, never over a
// parsed and rewritten form; every size is bounded before anything is parsed;
// an unknown member is an error.
//
// Trust zone: written by the owner, carried by the host (hostile), measured and
// then parsed by the guest, judged by the trustee.
package initdata

import (
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// Limits of a document.
const (
	MaxPlain      = 4 << 20 // bytes of TOML
	MaxCompressed = 1 << 20 // bytes of gzip
	maxKeys       = 64
	maxKey        = 256
)

// Version is the only version of the format.
const Version = "0.1.0"

// Keys of the published members of [data].
const (
	KeyAA         = "aa.toml"
	KeyCDH        = "cdh.toml"
	KeyPolicyRego = "policy.rego"
)

// Algorithm names the hash of the document.
type Algorithm string

// Algorithms.
const (
	SHA256 Algorithm = "sha256"
	SHA384 Algorithm = "sha384"
	SHA512 Algorithm = "sha512"
)

// Document is one initdata document.
type Document struct {
	Version   string            `toml:"version"`
	Algorithm Algorithm         `toml:"algorithm"`
	Data      map[string]string `toml:"data"`
}

// Parse decodes a plain document. The caller has hashed the same bytes before.
func Parse(plain []byte) (*Document, error) {
	if err := checkTOML(plain); err != nil {
		return nil, fmt.Errorf("parsing initdata: %w", err)
	}
	d := new(Document)
	md, err := toml.Decode(string(plain), d)
	if err != nil {
		return nil, fmt.Errorf("parsing initdata: %w", err)
	}
	if u := md.Undecoded(); len(u) > 0 {
		return nil, fmt.Errorf("parsing initdata: unknown member %.80q", u[0].String())
	}
	for _, k := range md.Keys() {
		// The decoder matches names without regard to case; the format does not.
		if k[0] != "version" && k[0] != "algorithm" && k[0] != "data" {
			return nil, fmt.Errorf("parsing initdata: unknown member %.80q", k.String())
		}
	}
	if err := d.validate(); err != nil {
		return nil, fmt.Errorf("parsing initdata: %w", err)
	}
	return d, nil
}

func (d *Document) validate() error {
	if d.Version != Version {
		return fmt.Errorf("version %.20q is not supported, only %s", d.Version, Version)
	}
	if _, err := Digest(d.Algorithm, nil); err != nil {
		return err
	}
	if len(d.Data) > maxKeys {
		return fmt.Errorf("data: %d members, at most %d", len(d.Data), maxKeys)
	}
	for k := range d.Data {
		if k == "" || len(k) > maxKey {
			return fmt.Errorf("data: member name %.40q is empty or too long", k)
		}
	}
	return nil
}

// CheckAlgorithm refuses a document whose own algorithm is not the one fixed
// for the TEE (a wire name such as "tpm").
func (d *Document) CheckAlgorithm(tee string) error {
	want, err := AlgorithmFor(tee)
	if err != nil {
		return err
	}
	if d.Algorithm != want {
		return fmt.Errorf("initdata: algorithm %s, but %s takes %s", d.Algorithm, tee, want)
	}
	return nil
}

// AlgorithmFor gives the one algorithm of a TEE, by its wire name.
func AlgorithmFor(tee string) (Algorithm, error) {
	switch tee {
	case "snp", "tpm", "az-snp-vtpm", "az-tdx-vtpm":
		return SHA256, nil
	case "tdx", "nitro":
		return SHA384, nil
	case "cca", "sgx", "se":
		return SHA512, nil
	}
	return "", fmt.Errorf("initdata: no algorithm is fixed for TEE %.40q", tee)
}

// Digest hashes a plain document.
func Digest(a Algorithm, plain []byte) ([]byte, error) {
	switch a {
	case SHA256:
		s := sha256.Sum256(plain)
		return s[:], nil
	case SHA384:
		s := sha512.Sum384(plain)
		return s[:], nil
	case SHA512:
		s := sha512.Sum512(plain)
		return s[:], nil
	}
	return nil, fmt.Errorf("initdata: unknown algorithm %.20q", a)
}

// NoneDigest is what PCR 8 is extended with when there is no initdata device.
func NoneDigest() [32]byte { return sha256.Sum256([]byte("coffer: no initdata")) }

// Fit truncates a digest, or pads it with zero bytes at the end, to the n bytes
// of a hardware field, as published.
func Fit(digest []byte, n int) []byte {
	out := make([]byte, n)
	copy(out, digest)
	return out
}

// maxDepth bounds the nesting of TOML values and the segments of a dotted key:
// the decoder recurses once per level.
const maxDepth = 16

var errTooDeep = errors.New("nested too deeply")

// checkTOML bounds what the decoder may be asked to recurse into. It follows
// strings and comments only as far as it must to count brackets and dots
// outside of them; whether the document is valid is the decoder's to say.
func checkTOML(b []byte) error {
	if len(b) > MaxPlain {
		return fmt.Errorf("%d bytes, at most %d", len(b), MaxPlain)
	}
	if !utf8.Valid(b) {
		return errors.New("not UTF-8")
	}
	s := string(b)
	depth, dots := 0, 0
	for i := 0; i < len(s); {
		switch c := s[i]; c {
		case '#':
			n := strings.IndexByte(s[i:], '\n')
			if n < 0 {
				return nil
			}
			i += n
		case '"', '\'':
			n, err := skipString(s[i:], c)
			if err != nil {
				return err
			}
			i += n
		case '[', '{':
			if depth++; depth > maxDepth {
				return errTooDeep
			}
			i++
		case ']', '}':
			depth = max(0, depth-1)
			i++
		case '.':
			if dots++; dots > maxDepth {
				return errTooDeep
			}
			i++
		case '\n', '=', ',':
			// A key ends here; a dot in a number counts for the next key too, which is harmless.
			dots = 0
			i++
		default:
			i++
		}
	}
	return nil
}

// skipString gives the length of the quoted string at the start of s.
func skipString(s string, q byte) (int, error) {
	if triple := strings.Repeat(string(q), 3); strings.HasPrefix(s, triple) {
		for i := 3; i < len(s); i++ {
			if q == '"' && s[i] == '\\' {
				i++
				continue
			}
			if strings.HasPrefix(s[i:], triple) {
				i += 3
				// Up to two quotes may belong to the content.
				for n := 0; n < 2 && i < len(s) && s[i] == q; n++ {
					i++
				}
				return i, nil
			}
		}
		return 0, errors.New("a multi-line string does not end")
	}
	for i := 1; i < len(s); i++ {
		switch {
		case q == '"' && s[i] == '\\':
			i++
		case s[i] == q:
			return i + 1, nil
		case s[i] == '\n':
			return 0, errors.New("a string does not end on its line")
		}
	}
	return 0, errors.New("a string does not end")
}
