// Package oidctest is an OpenID Connect provider for tests, written from the
// specifications: discovery, a key set, and tokens by ES256. It can rotate its keys,
// hang, and lie. It shares no code with what it tests.
//
// Trust zone: tests only.
package oidctest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Provider is a running provider.
type Provider struct {
	t   testing.TB
	srv *httptest.Server

	mu       sync.Mutex
	key      *ecdsa.PrivateKey
	kid      int
	answers  map[string]string // by path, in the place of what is true
	hang     chan struct{}
	requests int
}

// Start starts a provider that ends with the test.
func Start(t testing.TB) *Provider {
	t.Helper()
	p := &Provider{t: t, answers: map[string]string{}}
	p.Rotate()
	p.srv = httptest.NewTLSServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.srv.Close)
	t.Cleanup(func() { p.Hang(false) })
	return p
}

// Issuer is the provider's name.
func (p *Provider) Issuer() string { return p.srv.URL }

// CAFile gives a file with the certificate that vouches for it.
func (p *Provider) CAFile() string {
	p.t.Helper()
	path := filepath.Join(p.t.TempDir(), "idp-ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.srv.Certificate().Raw}), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// Rotate takes a new key; the old one is gone.
func (p *Provider) Rotate() {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.key, p.kid = k, p.kid+1
}

// Answer has a path answered with a text; "": with what is true again.
func (p *Provider) Answer(path, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[path] = text
}

// Hang has requests wait, or lets them go.
func (p *Provider) Hang(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case on && p.hang == nil:
		p.hang = make(chan struct{})
	case !on && p.hang != nil:
		close(p.hang)
		p.hang = nil
	}
}

// Requests is how many there were.
func (p *Provider) Requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

func (p *Provider) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.requests++
	hang, answer, key, kid := p.hang, p.answers[r.URL.Path], p.key, p.kid
	p.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-r.Context().Done():
			return
		}
	}
	switch {
	case answer != "":
		fmt.Fprint(w, answer)
	case r.URL.Path == "/.well-known/openid-configuration":
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["ES256"]}`, p.srv.URL, p.srv.URL+"/keys")
	case r.URL.Path == "/keys":
		point, err := key.PublicKey.Bytes()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		// As providers do: a key for another use, and one of a kind that nobody here knows.
		fmt.Fprintf(w, `{"keys":[{"kty":"RSA","use":"enc","kid":"e","n":"AQAB","e":"AQAB"},{"kty":"OKP","crv":"Ed448","kid":"x","x":"AA"},`+
			`{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","kid":"k%d","x":%q,"y":%q}]}`, kid, b64(point[1:33]), b64(point[33:]))
	default:
		http.NotFound(w, r)
	}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Token signs a token for an audience that is good for an hour; more replaces claims,
// and nil takes one out.
func (p *Provider) Token(audience, subject string, now time.Time, more map[string]any) string {
	p.t.Helper()
	claims := map[string]any{"iss": p.srv.URL, "aud": audience, "sub": subject, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	maps.Copy(claims, more)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	body, err := json.Marshal(claims)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	text := b64(fmt.Appendf(nil, `{"alg":"ES256","kid":"k%d","typ":"JWT"}`, p.kid)) + "." + b64(body)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, p.key, sum[:])
	if err != nil {
		p.t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return text + "." + b64(sig)
}
