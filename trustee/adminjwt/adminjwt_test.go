package adminjwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// sign makes a token with a header and claims as they are given.
func sign(t testing.TB, key crypto.Signer, alg, head, claims string) string {
	t.Helper()
	text := b64([]byte(head)) + "." + b64([]byte(claims))
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[2:]]
	sum, opts := []byte(text), crypto.SignerOpts(crypto.Hash(0))
	if hash != 0 {
		h := hash.New()
		h.Write([]byte(text))
		sum, opts = h.Sum(nil), hash
	}
	if strings.HasPrefix(alg, "PS") {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
	}
	if k, ok := key.(*ecdsa.PrivateKey); ok {
		r, s, err := ecdsa.Sign(rand.Reader, k, sum)
		if err != nil {
			t.Fatal(err)
		}
		size := (k.Curve.Params().BitSize + 7) / 8
		sig := make([]byte, 2*size)
		r.FillBytes(sig[:size])
		s.FillBytes(sig[size:])
		return text + "." + b64(sig)
	}
	sig, err := key.Sign(rand.Reader, sum, opts)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(sig)
}

func pemOf(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func acl(t testing.TB, role, pattern string) ACL {
	t.Helper()
	re, err := Compile(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return ACL{role, re}
}

const path = "/kbs/v0/resource/a/b/c"

func good(role string) string {
	return fmt.Sprintf(`{"iss":"idp","sub":"alice","aud":"KBS","role":%q,"exp":%d}`, role, now.Add(time.Hour).Unix())
}

func TestAlgorithms(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	p256 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p384 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	r := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	keys := map[string]crypto.Signer{"EdDSA": ed, "ES256": p256, "ES384": p384, "RS256": r, "RS384": r, "RS512": r, "PS256": r, "PS384": r, "PS512": r}
	for alg, key := range keys {
		k := must[*Key](t)(ParsePEM(pemOf(t, key.Public())))
		c := &Config{[]Provider{{Keys: []Key{*k}}}, []ACL{acl(t, "admin", "^/kbs/v0/.*$")}}
		for said := range keys {
			token := sign(t, key, alg, `{"alg":"`+said+`"}`, good("admin"))
			if _, err := c.Authenticate(token, path, now); (err == nil) != (said == alg) {
				t.Errorf("signed by %s, says %s: %v", alg, said, err)
			}
		}
		for _, said := range []string{"none", "HS256", "", "RS1", "ES512"} {
			if _, err := c.Authenticate(sign(t, key, alg, `{"alg":"`+said+`"}`, good("admin")), path, now); err == nil {
				t.Errorf("%s: taken", said)
			}
		}
	}
	// A key set names the algorithm, which then counts.
	set := fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"one","x":%q},{"kty":"RSA","alg":"PS256","use":"sig","n":%q,"e":"AQAB"},{"kty":"EC","crv":"P-256","x":%q,"y":%q}]}`,
		b64(ed.Public().(ed25519.PublicKey)), b64(r.N.Bytes()), b64(p256.X.FillBytes(make([]byte, 32))), b64(p256.Y.FillBytes(make([]byte, 32))))
	c := &Config{[]Provider{{Keys: must[[]Key](t)(ParseJWKS([]byte(set)))}}, []ACL{acl(t, "admin", "^/kbs/v0/.*$")}}
	for head, want := range map[string]bool{`{"alg":"EdDSA"}`: true, `{"alg":"EdDSA","kid":"one"}`: true, `{"alg":"EdDSA","kid":"two"}`: false} {
		if _, err := c.Authenticate(sign(t, ed, "EdDSA", head, good("admin")), path, now); (err == nil) != want {
			t.Errorf("%s: %v", head, err)
		}
	}
	for alg, want := range map[string]bool{"PS256": true, "RS256": false, "PS512": false} {
		if _, err := c.Authenticate(sign(t, r, alg, `{"alg":"`+alg+`"}`, good("admin")), path, now); (err == nil) != want {
			t.Errorf("%s: %v", alg, err)
		}
	}
	if _, err := c.Authenticate(sign(t, p256, "ES256", `{"alg":"ES256"}`, good("admin")), path, now); err != nil {
		t.Error(err)
	}
}

func TestClaims(t *testing.T) {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	_, other, _ := ed25519.GenerateKey(rand.Reader)
	c := &Config{
		[]Provider{{Issuer: "idp", Audience: "KBS", Keys: []Key{{Public: key.Public()}}}},
		[]ACL{acl(t, "writer", "^/kbs/v0/resource/.+$"), acl(t, "odd", "^/kbs/v0/a|/kbs/v0/resource/a$")},
	}
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for name, tc := range map[string]struct {
		claims string
		ok     bool
	}{
		"good":                 {good("writer"), true},
		"a list of audiences":  {strings.Replace(good("writer"), `"KBS"`, `["x","KBS"]`, 1), true},
		"within the leeway":    {fmt.Sprintf(`{"iss":"idp","aud":"KBS","role":"writer","exp":%d}`, at(-30*time.Second)), true},
		"expired":              {fmt.Sprintf(`{"iss":"idp","aud":"KBS","role":"writer","exp":%d}`, at(-2*time.Minute)), false},
		"no expiration":        {`{"iss":"idp","aud":"KBS","role":"writer"}`, false},
		"expiration a text":    {`{"iss":"idp","aud":"KBS","role":"writer","exp":"x"}`, false},
		"of tomorrow":          {fmt.Sprintf(`{"iss":"idp","aud":"KBS","role":"writer","exp":%d,"nbf":%d}`, at(time.Hour), at(10*time.Minute)), false},
		"another issuer":       {strings.Replace(good("writer"), "idp", "idq", 1), false},
		"another audience":     {strings.Replace(good("writer"), "KBS", "KBT", 1), false},
		"no role":              {good(""), false},
		"another role":         {good("reader"), false},
		"a loose alternative":  {good("odd"), false},
		"a role of two":        {strings.Replace(good("writer"), `"writer"`, `["writer"]`, 1), false},
		"not an object":        {`[]`, false},
		"what is far too long": {strings.Replace(good("writer"), "alice", strings.Repeat("x", 300), 1), false},
	} {
		actor, err := c.Authenticate(sign(t, key, "EdDSA", `{"alg":"EdDSA"}`, tc.claims), path, now)
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
		if name == "good" && actor != "jwt:idp/alice role writer" {
			t.Errorf("actor %q", actor)
		}
		if forbidden := name == "another role" || name == "a loose alternative"; errors.Is(err, ErrForbidden) != forbidden {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.Authenticate(sign(t, other, "EdDSA", `{"alg":"EdDSA"}`, tc.claims), path, now); err == nil {
			t.Errorf("%s: another key's signature", name)
		}
	}
	token := sign(t, key, "EdDSA", `{"alg":"EdDSA"}`, good("writer"))
	for _, bad := range []string{"", "..", token + ".", strings.Repeat("x", MaxToken+1), sign(t, key, "EdDSA", `{"alg":"EdDSA","crit":["x"]}`, good("writer")), token[:len(token)-4]} {
		if _, err := c.Authenticate(bad, path, now); err == nil {
			t.Errorf("%.40q: taken", bad)
		}
	}
	for _, p := range []string{"/kbs/v0/attestation-policy", "/x" + path, "/kbs/v0/resource/", path + "\n"} {
		if _, err := c.Authenticate(token, p, now); !errors.Is(err, ErrForbidden) && p != path+"\n" {
			t.Errorf("%q: %v", p, err)
		}
	}
}

func TestKeysRefused(t *testing.T) {
	weak := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 1024))
	p521 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	for _, b := range [][]byte{nil, []byte("x"), pemOf(t, &weak.PublicKey), pemOf(t, &p521.PublicKey)} {
		if k, err := ParsePEM(b); err == nil {
			t.Errorf("%+v", k)
		}
	}
	for _, s := range []string{`{}`, `{"keys":[]}`, `{"keys":[{"kty":"oct","k":"AA"}]}`, `{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`,
		`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}`, `{"keys":[{"kty":"RSA","n":"AA","e":"AQAB"}]}`, `{"keys":[{"kty":"OKP","crv":"Ed25519","use":"enc","x":"AA"}]}`} {
		if k, err := ParseJWKS([]byte(s)); err == nil {
			t.Errorf("%s: %+v", s, k)
		}
	}
	for _, p := range []string{"", "/kbs/v0/x", "^/kbs/v0/x", "^/coffer/v1/.*$", "^/kbs/(.*$"} {
		if _, err := Compile(p); err == nil {
			t.Errorf("pattern %q taken", p)
		}
	}
}

// FuzzAuthenticate: no token panics, and none without a good signature is taken.
func FuzzAuthenticate(f *testing.F) {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	_, other, _ := ed25519.GenerateKey(rand.Reader)
	c := &Config{[]Provider{{Keys: []Key{{Public: key.Public()}}}}, []ACL{acl(f, "admin", "^/kbs.*$")}}
	f.Add(sign(f, other, "EdDSA", `{"alg":"EdDSA"}`, good("admin")))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := c.Authenticate(token, path, now); err == nil {
			t.Errorf("%q: taken", token)
		}
		h, claims, _, _, err := split(token)
		if err == nil && json.Valid(claims) {
			_, _ = readClaims(claims)
			_ = h
		}
	})
}
