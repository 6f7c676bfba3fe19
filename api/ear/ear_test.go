package ear_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/test/vectors"
)

func read(t testing.TB, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func certs(t testing.TB, b []byte) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return out
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
}

// The key of the other implementation gives the JWKS of the other implementation.
func TestJWKSVector(t *testing.T) {
	dir := filepath.Join(vectors.Dir(t, "as"), "jwk")
	block, _ := pem.Decode(read(t, dir, "signing-key.pem"))
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ear.NewSigner(k.(*ecdsa.PrivateKey), certs(t, read(t, dir, "cert-chain.pem")))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ear.MarshalJWKS(s.JWK())
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if json.Unmarshal(got, &a) != nil || json.Unmarshal(read(t, dir, "expected-jwks.json"), &b) != nil || !reflect.DeepEqual(a, b) {
		t.Errorf("JWKS %s", got)
	}
}

func TestJWKTrustScenarios(t *testing.T) {
	dir := vectors.Dir(t, "kbs")
	at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for n, ok := range map[string]bool{"01": true, "02": false, "03": false, "04": false} {
		t.Run(n, func(t *testing.T) {
			j := new(ear.JWK)
			if err := json.Unmarshal(read(t, dir, "scenario"+n+"-jwk.json"), j); err != nil {
				t.Fatal(err)
			}
			roots := certs(t, read(t, dir, "scenario"+n+"-trust.pem"))
			for _, a := range []ear.Anchors{{Roots: roots, Now: at}, {Roots: roots, Floor: at}, {Roots: roots, Now: at, RefuseTLS: true}} {
				if _, err := j.Trust(a); (err == nil) != ok {
					t.Errorf("%+v: %v", a.Now, err)
				}
			}
			if _, err := j.Trust(ear.Anchors{Roots: roots, Now: at, SignerURI: ear.SignerURI}); err == nil {
				t.Error("a signer that is not named so is trusted")
			}
			if _, err := j.Trust(ear.Anchors{Roots: roots}); err == nil {
				t.Error("trusted without a time")
			}
			if _, err := j.Trust(ear.Anchors{Roots: roots, Now: at.AddDate(20, 0, 0)}); err == nil {
				t.Error("an ended certificate is trusted")
			}
			if _, err := j.Trust(ear.Anchors{Roots: roots, Floor: at.AddDate(20, 0, 0)}); err == nil {
				t.Error("a certificate that ended before the floor is trusted")
			}
		})
	}
}

// The other implementation's token payload decodes, and its status is what we
// would compute.
func TestExampleToken(t *testing.T) {
	var c ear.Claims
	if err := json.Unmarshal(read(t, vectors.Dir(t, "as"), "example.token.json"), &c); err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	s := c.Submods["cpu0"]
	if s.Status != ear.Contraindicated || s.Vector.Hardware != 97 || s.Evidence["sgx"] == nil {
		t.Errorf("%+v", s)
	}
}

func TestTiers(t *testing.T) {
	for v, want := range map[int8]ear.Tier{
		0: ear.None, 1: ear.None, -1: ear.None, 2: ear.Affirming, 3: ear.Affirming, -31: ear.Affirming, 32: ear.Warning, 33: ear.Warning, 36: ear.Warning,
		95: ear.Warning, -95: ear.Warning, 96: ear.Contraindicated, 97: ear.Contraindicated, 127: ear.Contraindicated, -128: ear.Contraindicated,
	} {
		if got := ear.TierOf(v); got != want {
			t.Errorf("tier of %d is %s, want %s", v, got, want)
		}
		if got := (ear.Vector{Executables: 2, Hardware: v}).Status(); v != 0 && v != 1 && v != -1 && got != want {
			t.Errorf("status with %d is %s", v, got)
		}
	}
}

// pki is a CA with a token key.
type pki struct {
	root, leaf *x509.Certificate
	caKey, key *ecdsa.PrivateKey
}

func newPKI(t testing.TB, uri string, notBefore time.Time, use ...x509.ExtKeyUsage) *pki {
	t.Helper()
	p := new(pki)
	gen := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	p.caKey, p.key = gen(), gen()
	sign := func(c, parent *x509.Certificate, pub any) *x509.Certificate {
		c.SerialNumber, c.NotBefore, c.NotAfter, c.BasicConstraintsValid = big.NewInt(1), notBefore, notBefore.AddDate(1, 0, 0), true
		if parent == nil {
			parent = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, p.caKey)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	p.root = sign(&x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil, &p.caKey.PublicKey)
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "leaf"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: use}
	if uri != "" {
		u, _ := url.Parse(uri)
		leaf.URIs = []*url.URL{u}
	}
	p.leaf = sign(leaf, p.root, &p.key.PublicKey)
	return p
}

func sample(now time.Time) *ear.Claims {
	return &ear.Claims{
		Profile: ear.Profile, IssuedAt: now.Unix(), Expires: now.Add(5 * time.Minute).Unix(), ID: "x", Audience: "ns",
		Submods: map[string]ear.Submod{"cpu0": {Vector: ear.Vector{Hardware: 2, Executables: 3}, PolicyID: "default", Evidence: map[string]any{"tpm": map[string]any{}}}},
	}
}

func TestSignAndVerify(t *testing.T) {
	now := time.Now()
	p := newPKI(t, ear.SignerURI, now.Add(-time.Hour))
	s, err := ear.NewSigner(p.key, []*x509.Certificate{p.leaf, p.root})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := s.Sign(sample(now))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ear.Verify(tok, now, s.Public())
	if err != nil || c.Submods["cpu0"].Status != ear.Affirming {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, err := ear.Verify(tok, now.Add(7*time.Minute), s.Public()); !errors.Is(err, ear.ErrExpired) {
		t.Errorf("expired: %v", err)
	}
	if _, err := ear.Verify(tok, now); err == nil {
		t.Error("verified with no key at all")
	}
	if _, err := ear.Verify(tok, now, &p.caKey.PublicKey); err == nil {
		t.Error("verified with another key")
	}
	roots := []*x509.Certificate{p.root}
	if _, err := ear.VerifyX5C(tok, ear.Anchors{Roots: roots, Now: now, SignerURI: ear.SignerURI}); err != nil {
		t.Error(err)
	}
	// A guest whose clock is far behind learns the time from the token.
	if c, err := ear.VerifyX5C(tok, ear.Anchors{Roots: roots, Floor: now.AddDate(-2, 0, 0), SignerURI: ear.SignerURI}); err != nil || c.IssuedAt != now.Unix() {
		t.Error(err)
	}
	if _, err := ear.VerifyX5C(tok, ear.Anchors{Roots: roots, Now: now.AddDate(-2, 0, 0), SignerURI: ear.SignerURI}); err == nil {
		t.Error("a certificate of the future is trusted by a clock")
	}
	other := newPKI(t, ear.SignerURI, now.Add(-time.Hour))
	if _, err := ear.VerifyX5C(tok, ear.Anchors{Roots: []*x509.Certificate{other.root}, Now: now}); err == nil {
		t.Error("another CA's token is trusted")
	}
	// The same CA's TLS certificate must not sign tokens.
	tls := newPKI(t, "", now.Add(-time.Hour))
	st, err := ear.NewSigner(tls.key, []*x509.Certificate{tls.leaf})
	if err != nil {
		t.Fatal(err)
	}
	tok, err = st.Sign(sample(now))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ear.VerifyX5C(tok, ear.Anchors{Roots: []*x509.Certificate{tls.root}, Now: now, SignerURI: ear.SignerURI}); err == nil {
		t.Error("a certificate without the signer's name signs tokens")
	}
	// An authority of others' tokens may have issued certificates of TLS as well.
	for use, ok := range map[x509.ExtKeyUsage]bool{x509.ExtKeyUsageServerAuth: false, x509.ExtKeyUsageClientAuth: false, x509.ExtKeyUsageAny: false, x509.ExtKeyUsageCodeSigning: true} {
		web := newPKI(t, "", now.Add(-time.Hour), use)
		s, err := ear.NewSigner(web.key, []*x509.Certificate{web.leaf})
		if err != nil {
			t.Fatal(err)
		}
		if tok, err = s.Sign(sample(now)); err != nil {
			t.Fatal(err)
		}
		if _, err := ear.VerifyX5C(tok, ear.Anchors{Roots: []*x509.Certificate{web.root}, Now: now, RefuseTLS: true}); (err == nil) != ok {
			t.Errorf("a certificate for use %d: %v", use, err)
		}
	}
	if _, err := ear.NewSigner(p.key, []*x509.Certificate{p.root}); err == nil {
		t.Error("a signer with another key's certificate")
	}
}

func FuzzVerify(f *testing.F) {
	now := time.Now()
	p := newPKI(f, ear.SignerURI, now.Add(-time.Hour))
	s, err := ear.NewSigner(p.key, []*x509.Certificate{p.leaf})
	if err != nil {
		f.Fatal(err)
	}
	tok, err := s.Sign(sample(now))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tok)
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	anchors := ear.Anchors{Roots: []*x509.Certificate{p.root}, Now: now}
	f.Fuzz(func(t *testing.T, in string) {
		if _, err := ear.VerifyX5C(in, anchors); err == nil && in != tok {
			if _, err := ear.Verify(in, now, s.Public()); err != nil {
				t.Errorf("accepted %q", in)
			}
		}
	})
}

func FuzzJWK(f *testing.F) {
	f.Add([]byte(`{"kty":"EC","crv":"P-256","alg":"ES256","x":"ANbJDpVEC_bNPvuKERn1FkQMSuPWEzIQ7Y-kl3K0yEo","y":"eba_t8dP5Et0TPv0jdtCWba8l78-lTtyJSwWq0q0IQA","x5c":["MIIB"]}`))
	f.Fuzz(func(_ *testing.T, in []byte) {
		j := new(ear.JWK)
		if json.Unmarshal(in, j) == nil {
			_, _ = j.Trust(ear.Anchors{Now: time.Unix(1, 0)})
		}
	})
}
