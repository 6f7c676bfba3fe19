// Package azurekms has a key wrapped by Azure Key Vault, written from its published REST
// API (wrapkey, unwrapkey, sign, verify; 7.4).
//
// The vault's key is of RSA: it authenticates no additional data, and its public half
// wraps for anybody. So each wrapping makes a key of its own, which the vault wraps; that
// key seals ours with the additional data; and the vault signs all of it with the same
// RSA key, and says at the unwrapping whether it has. The key must allow wrapKey,
// unwrapKey, sign and verify.
//
// Trust zone: trustee.
package azurekms

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/cofferproject/coffer/trustee/cloud/azure"
	"github.com/cofferproject/coffer/trustee/keyservice"
	"github.com/cofferproject/coffer/trustee/outbound"
)

const (
	perCall    = 8 * time.Second
	maxAnswer  = 64 << 10
	maxWrapped = 64 << 10
	apiVersion = "7.4"
	format     = 1
)

var keyPath = regexp.MustCompile(`^/keys/([A-Za-z0-9-]{1,127})/([0-9a-f]{32})$`)

type service struct {
	id   string // the key's URL
	web  *outbound.Client
	from *azure.Source
}

// Open takes https://NAME.vault.azure.net/keys/KEY/VERSION with the options ca, and
// tenant-id, client-id and client-secret-file (login-endpoint), or metadata=imds
// (client-id, metadata-endpoint). The version is part of it: a key without one may come
// to mean another.
func Open(_ context.Context, spec string) (keyservice.Service, error) {
	full, err := url.Parse(spec)
	if err != nil {
		return nil, errors.New("not a URL") // the parser's own error repeats it
	}
	q := full.Query()
	full.RawQuery = ""
	u, err := outbound.CheckURL(full.String())
	if err != nil {
		return nil, err
	}
	if !keyPath.MatchString(u.Path) {
		return nil, errors.New("write https://NAME.vault.azure.net/keys/KEY/VERSION and the options tenant-id and others")
	}
	s := &service{id: u.String(), from: &azure.Source{}}
	ca := ""
	for k, v := range q {
		if len(v) != 1 || v[0] == "" {
			return nil, fmt.Errorf("%.40s is given more than once, or empty", k)
		}
		to, ok := map[string]*string{
			"ca": &ca, "tenant-id": &s.from.Tenant, "client-id": &s.from.Client, "client-secret-file": &s.from.SecretFile, "login-endpoint": &s.from.Login, "metadata-endpoint": &s.from.Metadata,
		}[k]
		switch {
		case ok:
			*to = v[0]
		case k == "metadata" && v[0] == "imds":
			s.from.Machine = true
		default:
			return nil, fmt.Errorf("%.40q is none of tenant-id, client-id, client-secret-file, login-endpoint, metadata (imds), metadata-endpoint, ca", k)
		}
	}
	if err := s.from.Check(); err != nil {
		return nil, err
	}
	s.web, err = outbound.New(outbound.Options{CAFile: ca, Timeout: perCall, Most: maxAnswer})
	return s, err
}

// ID implements keyservice.Service.
func (s *service) ID() string { return "azure-kms:" + s.id }

// wrapped is what Wrap gives, in JSON.
type wrapped struct {
	Format    int    `json:"format"`
	Key       []byte `json:"key"`  // of one wrapping, under the vault's key
	Box       []byte `json:"box"`  // ours, under that
	Signature []byte `json:"sign"` // the vault's, of digest
}

// digest is what the vault signs.
func (w *wrapped) digest(id string, aad []byte) []byte {
	h := sha256.New()
	for _, part := range [][]byte{[]byte("coffer envelope key, format 1"), []byte(id), aad, w.Key, w.Box} {
		sum := sha256.Sum256(part)
		h.Write(sum[:])
	}
	return h.Sum(nil)
}

// Wrap implements keyservice.Service.
func (s *service) Wrap(ctx context.Context, key, aad []byte) ([]byte, error) {
	one := make([]byte, 32)
	defer clear(one)
	rand.Read(one)
	aead, err := sealer(one)
	if err != nil {
		return nil, err
	}
	w := &wrapped{Format: format, Box: aead.Seal(nil, nil, key, aad)} //nolint:gosec // this AEAD makes a random nonce itself
	if w.Key, err = s.call(ctx, "wrapkey", "RSA-OAEP-256", one); err != nil {
		return nil, err
	}
	if w.Signature, err = s.call(ctx, "sign", "PS256", w.digest(s.id, aad)); err != nil {
		return nil, err
	}
	return json.Marshal(w)
}

// Unwrap implements keyservice.Service.
func (s *service) Unwrap(ctx context.Context, b, aad []byte) ([]byte, error) {
	w, err := parse(b)
	if err != nil {
		return nil, err
	}
	if err := s.verify(ctx, w.digest(s.id, aad), w.Signature); err != nil {
		return nil, err
	}
	one, err := s.call(ctx, "unwrapkey", "RSA-OAEP-256", w.Key)
	if err != nil {
		return nil, err
	}
	defer clear(one)
	if len(one) != 32 {
		return nil, errors.New("the service gave a key of another size")
	}
	aead, err := sealer(one)
	if err != nil {
		return nil, err
	}
	key, err := aead.Open(nil, nil, w.Box, aad)
	if err != nil {
		return nil, errors.New("the wrapped key or its additional data was changed")
	}
	return key, nil
}

func parse(b []byte) (*wrapped, error) {
	w := new(wrapped)
	if len(b) > maxWrapped || json.Unmarshal(b, w) != nil || w.Format != format || len(w.Key) == 0 || len(w.Box) == 0 || len(w.Signature) == 0 {
		return nil, errors.New("not wrapped by this service")
	}
	return w, nil
}

func sealer(key []byte) (cipher.AEAD, error) {
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(c)
}

// call has the vault do an operation whose outcome is bytes, with the key.
func (s *service) call(ctx context.Context, op, alg string, value []byte) ([]byte, error) {
	var out struct {
		ID    string `json:"kid"`
		Value string `json:"value"`
	}
	if err := s.ask(ctx, op, map[string]string{"alg": alg, "value": base64.RawURLEncoding.EncodeToString(value)}, &out); err != nil {
		return nil, err
	}
	b, err := base64.RawURLEncoding.DecodeString(out.Value)
	if err != nil || len(b) == 0 || out.ID != s.id {
		return nil, errors.New(op + ": the answer has nothing of that key")
	}
	return b, nil
}

func (s *service) verify(ctx context.Context, digest, signature []byte) error {
	var out struct {
		Value bool `json:"value"`
	}
	enc := base64.RawURLEncoding
	err := s.ask(ctx, "verify", map[string]string{"alg": "PS256", "digest": enc.EncodeToString(digest), "value": enc.EncodeToString(signature)}, &out)
	if err == nil && !out.Value {
		err = errors.New("the wrapped key is not one that this service has signed, or it or its additional data was changed")
	}
	return err
}

func (s *service) ask(ctx context.Context, op string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	defer clear(body)
	token, _, err := s.from.Token(ctx, s.web, "https://vault.azure.net")
	if err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	a, err := s.web.Do(ctx, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.id+"/"+op+"?api-version="+apiVersion, bytes.NewReader(body))
		if err == nil {
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer "+token)
		}
		return req, err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer clear(a.Body)
	if a.Status != http.StatusOK {
		var doc struct {
			Error struct {
				Code    string `json:"code"`
				Message string `json:"message"`
			} `json:"error"`
		}
		_ = json.Unmarshal(a.Body, &doc)
		return fmt.Errorf("%s: status %d %.80s %s", op, a.Status, outbound.Plain(doc.Error.Code), outbound.Plain(doc.Error.Message))
	}
	if err := json.Unmarshal(a.Body, out); err != nil {
		return errors.New(op + ": the answer is not the service's") // without its text, which may be a key
	}
	return nil
}
