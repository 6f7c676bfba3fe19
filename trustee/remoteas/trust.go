package remoteas

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/ear"
)

const (
	maxFile = 1 << 20 // bytes of certificates or of a key set
	maxKeys = 64
)

// Sources say in what files the keys are that sign other services' tokens, as
// attestation_token of the published configuration names them.
type Sources struct {
	// Certificates (PEM) are authorities; a token carries a key with certificates
	// that lead to one.
	Certificates []string
	// KeySets (JWKS) are "file://" URLs.
	KeySets []string
}

// Empty reports that nobody's tokens are taken.
func (s *Sources) Empty() bool { return len(s.Certificates) == 0 && len(s.KeySets) == 0 }

// Trust verifies tokens of other services. It never believes a key that only the
// token brings along.
type Trust struct {
	from Sources

	mu    sync.Mutex
	roots []*x509.Certificate
	keys  []crypto.PublicKey
}

// NewTrust reads the files.
func NewTrust(s Sources) (*Trust, error) {
	t := &Trust{from: s}
	if s.Empty() {
		return nil, errors.New("no authority or key is named that signs the tokens of other services (attestation_token.trusted_certs_paths, trusted_jwk_sets)")
	}
	return t, t.Reload()
}

// Reload reads the files anew. After an error what was known counts still.
func (t *Trust) Reload() error {
	var roots []*x509.Certificate
	var keys []crypto.PublicKey
	for _, path := range t.from.Certificates {
		l, err := certificates(path)
		if err != nil {
			return fmt.Errorf("trusted certificates: %w", err)
		}
		roots = append(roots, l...)
	}
	for _, u := range t.from.KeySets {
		l, err := keySet(u)
		if err != nil {
			return fmt.Errorf("trusted key set: %w", err)
		}
		keys = append(keys, l...)
	}
	if len(roots)+len(keys) > maxKeys {
		return fmt.Errorf("trusted certificates and keys: %d, at most %d", len(roots)+len(keys), maxKeys)
	}
	t.mu.Lock()
	t.roots, t.keys = roots, keys
	t.mu.Unlock()
	return nil
}

// verify checks a token's signature and expiry.
func (t *Trust) verify(token string, now time.Time) (*ear.Claims, error) {
	t.mu.Lock()
	roots, keys := t.roots, t.keys
	t.mu.Unlock()
	err := errors.New("no key is trusted")
	if len(roots) > 0 {
		var c *ear.Claims
		if c, err = ear.VerifyX5C(token, ear.Anchors{Roots: roots, Now: now, RefuseTLS: true}); err == nil || errors.Is(err, ear.ErrExpired) {
			return c, err
		}
	}
	if len(keys) == 0 {
		return nil, err
	}
	c, kerr := ear.Verify(token, now, keys...)
	if kerr == nil || errors.Is(kerr, ear.ErrExpired) {
		return c, kerr
	}
	return nil, errors.Join(err, kerr)
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", path, maxFile)
	}
	return b, err
}

// certificates reads all of a file.
func certificates(path string) ([]*x509.Certificate, error) {
	b, err := read(path)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s: holds a %.40q", path, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 || len(bytes.TrimSpace(b)) > 0 {
		return nil, fmt.Errorf("%s: no certificate in PEM, or something behind the last one", path)
	}
	return out, nil
}

func keySet(u string) ([]crypto.PublicKey, error) {
	path, ok := strings.CutPrefix(u, "file://")
	if !ok || !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("%.128q is not file:// and an absolute path", u)
	}
	b, err := read(path)
	if err != nil {
		return nil, err
	}
	out, err := parseKeySet(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

// parseKeySet reads a key set, every key of which must be usable.
func parseKeySet(b []byte) ([]crypto.PublicKey, error) {
	var set ear.JWKS
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, err
	}
	if len(set.Keys) == 0 || len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys, not 1 to %d", len(set.Keys), maxKeys)
	}
	var out []crypto.PublicKey
	for i, j := range set.Keys {
		if j == nil {
			return nil, fmt.Errorf("keys[%d]: null", i)
		}
		k, err := j.PublicKey()
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		out = append(out, k)
	}
	return out, nil
}
