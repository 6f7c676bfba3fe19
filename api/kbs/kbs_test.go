package kbs

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/test/vectors"
)

const vectorKey = `{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"AQ","y":"Ag"}`

func TestRuntimeDataVectors(t *testing.T) {
	k, err := ParseTEEKey([]byte(vectorKey))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		hash func() ([]byte, error)
		want string
	}{
		"device":     {func() ([]byte, error) { return DeviceRuntimeDataHash(HashSHA384, "bm9uY2U=", k) }, "8b396d072096bda2ab91b96dadc67d92ddfeba4779b19be2d336a501a3618ed5cc1f900b0d99b8ad760340a6df206a54"},
		"none":       {func() ([]byte, error) { return RuntimeDataHash(HashSHA384, "bm9uY2U=", k, "") }, "8a0dedde8eaf03a25760757ffbcd91cacda23aa699d3cd311deb57f51110cfef59b397dba35234c48747f3e6efc92558"},
		"additional": {func() ([]byte, error) { return RuntimeDataHash(HashSHA384, "bm9uY2U=", k, `{"nvidia":{}}`) }, "424701e39c2044e74ba74fe61591e67cc0fdeceec50f6d0c5c242d62bbaba62eee1c2453d6b235ebf29c4e445234e173"},
		"jcs": {func() ([]byte, error) {
			b, err := Canonicalize([]byte(` {"b":1,"a":"test","c":{"d":"e"}}`))
			if err != nil {
				return nil, err
			}
			return Hash(HashSHA384, b)
		}, "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3"},
	} {
		got, err := c.hash()
		if err != nil || hex.EncodeToString(got) != c.want {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
}

func TestUnknownKeyMembersAreNotHashed(t *testing.T) {
	k, err := ParseTEEKey([]byte(`{"kid":"x","use":"enc","X":"zz",` + vectorKey[1:]))
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.MarshalJSON()
	if err != nil || string(b) != vectorKey {
		t.Errorf("%s, %v", b, err)
	}
}

func TestCanonicalize(t *testing.T) {
	for in, want := range map[string]string{
		`{"b":[1,-2,true,null,"x"],"a":{}}`:    `{"a":{},"b":[1,-2,true,null,"x"]}`,
		`"\u20ac$\u000f\nA'B\"\\\\\"\/\u007f"`: `"€$\u000f\nA'B\"\\\\\"/` + "\x7f\"",
		`{"\ufb33":1,"\ud83d\ude00":2,"1":3}`:  "{\"1\":3,\"\U0001f600\":2,\"\ufb33\":1}", // UTF-16 order: a surrogate sorts before U+FB33
		`"<>&\u2028"`:                          "\"<>&\u2028\"",
	} {
		got, err := Canonicalize([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "1.5", "1e3", "9007199254740992", `{"a":1,"a":2}`, `{} {}`, "\"\xff\"", strings.Repeat("[", 1000) + strings.Repeat("]", 1000)} {
		if got, err := Canonicalize([]byte(in)); err == nil {
			t.Errorf("%.20s: accepted as %s", in, got)
		}
	}
}

func TestSelectedHash(t *testing.T) {
	for in, want := range map[string]string{`""`: "sha384", `null`: "sha384", `{}`: "sha384", `{"selected-hash-algorithm":"SHA512"}`: "sha512", ``: "sha384"} {
		if got, err := SelectedHash(json.RawMessage(in)); err != nil || got != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	for _, in := range []string{`{"selected-hash-algorithm":1}`, `{"selected-hash-algorithm":"md5"}`} {
		if got, err := SelectedHash(json.RawMessage(in)); err == nil {
			t.Errorf("%s: accepted as %s", in, got)
		}
	}
}

// RFC 3394, section 4.6, and RFC 7518, appendix C, give the vectors.
func TestKeyWrapAndKDF(t *testing.T) {
	h := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	kek := h("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F")
	key := h("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F")
	want := h("28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21")
	got, err := wrapKey(kek, key)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("wrapped %x, %v", got, err)
	}
	back, err := unwrapKey(kek, want)
	if err != nil || !bytes.Equal(back, key) {
		t.Errorf("unwrapped %x, %v", back, err)
	}
	for i := range want {
		bent := bytes.Clone(want)
		bent[i] ^= 1
		if _, err := unwrapKey(kek, bent); err == nil {
			t.Fatalf("a wrapped key with byte %d changed was accepted", i)
		}
	}
	for _, n := range []int{0, 7, 8, 16, 23, 33} {
		if _, err := unwrapKey(kek, make([]byte, n)); err == nil {
			t.Errorf("a wrapped key of %d bytes was accepted", n)
		}
	}
}

func newKey(t testing.TB, c ecdh.Curve) (*ecdh.PrivateKey, *TEEKey) {
	t.Helper()
	priv, err := c.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := NewTEEKey(priv.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	return priv, pub
}

func TestSealOpen(t *testing.T) {
	for _, c := range []ecdh.Curve{ecdh.P256(), ecdh.P384(), ecdh.P521()} {
		priv, pub := newKey(t, c)
		wire, err := json.Marshal(pub)
		if err != nil {
			t.Fatal(err)
		}
		if pub, err = ParseTEEKey(wire); err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{0, 1, 1000} {
			plain := bytes.Repeat([]byte{'s'}, n)
			b, err := Seal(pub, plain)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Open(priv, b)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%v, %d bytes: %q, %v", c, n, got, err)
			}
		}
	}
}

// The header must be what clients rebuild from its parsed form: compact, alg,
// enc, then sorted members, epk's sorted too.
func TestHeaderBytes(t *testing.T) {
	_, pub := newKey(t, ecdh.P256())
	b, err := Seal(pub, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	var j map[string]string
	if err := json.Unmarshal(b, &j); err != nil {
		t.Fatal(err)
	}
	h, err := base64.RawURLEncoding.DecodeString(j["protected"])
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		EPK map[string]string `json:"epk"`
	}
	if err := json.Unmarshal(h, &m); err != nil {
		t.Fatal(err)
	}
	sorted, err := Canonicalize(h)
	if err != nil || !bytes.Equal(sorted, h) {
		t.Errorf("header %s, sorted %s", h, sorted)
	}
	if want := `{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-256","kty":"EC","x":"` + m.EPK["x"] + `","y":"` + m.EPK["y"] + `"}}`; string(h) != want {
		t.Errorf("header %s, want %s", h, want)
	}
	if len(j) != 5 {
		t.Errorf("members %v", j)
	}
}

func TestSealForRSA(t *testing.T) {
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e := base64.RawURLEncoding.EncodeToString(big.NewInt(int64(priv.E)).Bytes())
	pub, err := ParseTEEKey([]byte(`{"kty":"RSA","alg":"RSA-OAEP-256","n":"` + base64.RawURLEncoding.EncodeToString(priv.N.Bytes()) + `","e":"` + e + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Seal(pub, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	var j map[string]string
	if err := json.Unmarshal(b, &j); err != nil {
		t.Fatal(err)
	}
	d := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(j[s])
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if string(d("protected")) != `{"alg":"RSA-OAEP-256","enc":"A256GCM"}` {
		t.Errorf("header %s", d("protected"))
	}
	cek, err := rsa.DecryptOAEP(sha256.New(), nil, priv, d("encrypted_key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := newGCM(cek)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gcm.Open(nil, d("iv"), append(d("ciphertext"), d("tag")...), []byte(j["protected"]))
	if err != nil || string(plain) != "secret" {
		t.Errorf("%q, %v", plain, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	priv, pub := newKey(t, ecdh.P256())
	other, _ := newKey(t, ecdh.P256())
	good, err := Seal(pub, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(other, good); err == nil {
		t.Error("another key opened it")
	}
	header := func(h string) []byte {
		var j map[string]string
		if err := json.Unmarshal(good, &j); err != nil {
			t.Fatal(err)
		}
		j["protected"] = base64.RawURLEncoding.EncodeToString([]byte(h))
		b, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, b := range map[string][]byte{
		"empty": nil, "not JSON": []byte("x"), "long": make([]byte, MaxJWE+1), "none": header(`{"alg":"none","enc":"A256GCM"}`), "crit": header(`{"alg":"ECDH-ES+A256KW","enc":"A256GCM","crit":["x"]}`),
		"zero point": header(`{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"kty":"EC","crv":"P-256","x":"` + strings.Repeat("A", 43) + `","y":"` + strings.Repeat("A", 43) + `"}}`),
		"short key":  bytes.Replace(good, []byte(`"encrypted_key":"`), []byte(`"encrypted_key":"AAAA","x":"`), 1),
	} {
		if _, err := Open(priv, b); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	for i := range good {
		bent := bytes.Clone(good)
		bent[i] ^= 1
		if p, err := Open(priv, bent); err == nil && string(p) != "secret" {
			t.Fatalf("byte %d changed: opened to %q", i, p)
		}
	}
}

func TestTEEKeyRefused(t *testing.T) {
	for _, s := range []string{
		``, `[]`, `{}`, `{"kty":"oct","alg":"x"}`, `{"kty":"EC","alg":"ECDH-ES+A256KW","crv":"P-256","x":"AQ"}`, `{"kty":"EC","alg":1,"crv":"P-256","x":"AQ","y":"AQ"}`,
		`{"KTY":"EC","alg":"a","crv":"P-256","x":"AQ","y":"AQ"}`, `{"kty":"EC","alg":"a","crv":"P-256","x":"` + strings.Repeat("A", 3000) + `","y":"AQ"}`,
	} {
		if k, err := ParseTEEKey([]byte(s)); err == nil {
			t.Errorf("%.60s: accepted %+v", s, k)
		}
	}
	for _, s := range []string{vectorKey, strings.Replace(vectorKey, "P-256", "P-384", 1), strings.Replace(vectorKey, "ECDH-ES+A256KW", "ECDH-ES", 1), `{"kty":"RSA","alg":"RSA-OAEP-256","n":"AQ","e":"AQAB"}`, `{"kty":"RSA","alg":"RSA1_5","n":"AQ","e":"AQAB"}`} {
		k, err := ParseTEEKey([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Seal(k, []byte("x")); err == nil {
			t.Errorf("%s: sealed", s)
		}
	}
}

// The JWK fixtures of the other implementation: a signing key, its chain, the
// set that must come of it. The coordinates must come out as ours write them.
func TestJWKFixture(t *testing.T) {
	raw := vectors.Dir(t, "as")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(raw, "jwk", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b, _ := pem.Decode(read("signing-key.pem"))
	var key *ecdsa.PrivateKey
	if k, err := x509.ParsePKCS8PrivateKey(b.Bytes); err == nil {
		key = k.(*ecdsa.PrivateKey)
	} else if key, err = x509.ParseECPrivateKey(b.Bytes); err != nil {
		t.Fatal(err)
	}
	if key.Curve != elliptic.P256() {
		t.Fatal("not P-256")
	}
	pub, err := key.PublicKey.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewTEEKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(read("expected-jwks.json"), &set); err != nil {
		t.Fatal(err)
	}
	if set.Keys[0]["x"] != k.x || set.Keys[0]["y"] != k.y || set.Keys[0]["crv"] != k.crv {
		t.Errorf("got %s %s, want %v", k.x, k.y, set.Keys[0])
	}
}

func TestDecode(t *testing.T) {
	r, err := DecodeRequest([]byte(`{"version":"0.4.0","tee":"tdx","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512","sm3"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if x, err := r.Extra(); err != nil || len(x.SupportedHashAlgorithms) != 4 || x.TPM != nil {
		t.Errorf("%+v, %v", x, err)
	}
	if r, err = DecodeRequest([]byte(`{"version":"0.4.0","tee":"snp","extra-params":""}`)); err != nil {
		t.Fatal(err)
	}
	if x, err := r.Extra(); err != nil || x.TPM != nil {
		t.Errorf("%+v, %v", x, err)
	}
	for _, s := range []string{``, `{}`, `{"version":"0.4.0","tee":"snp"}`, `{"version":"0.4.0","tee":"snp","extra-params":""}x`, `{"version":"0.4.0","tee":"\xff","extra-params":""}`} {
		if _, err := DecodeRequest([]byte(s)); err == nil {
			t.Errorf("request %s accepted", s)
		}
	}
	if _, err := DecodeAttestation([]byte(`{"init-data":{"format":"json","body":""},"runtime-data":{"nonce":"x","tee-pubkey":{}},"tee-evidence":{"primary_evidence":{},"additional_evidence":""}}`)); err == nil {
		t.Error("initdata of another format accepted")
	}
	if _, err := DecodeAttestation([]byte(`{"init-data":null,"runtime-data":{"nonce":"x","tee-pubkey":{}},"tee-evidence":{"primary_evidence":{},"additional_evidence":""}}`)); err != nil {
		t.Error(err)
	}
	if _, err := NonceBytes("bm9uY2U="); err == nil {
		t.Error("short nonce accepted")
	}
}

func FuzzOpen(f *testing.F) {
	priv, pub := newKey(f, ecdh.P256())
	b, err := Seal(pub, []byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"protected":"e30","encrypted_key":"AAAA","iv":"","ciphertext":"","tag":""}`))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = Open(priv, b) })
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"version":"0.4.0","tee":"tpm","extra-params":{"supported-hash-algorithms":["sha256"],"tpm":{"ek-cert":"AA==","ak-public":"AA=="}}}`))
	f.Add([]byte(`{"nonce":"AA==","extra-params":{"selected-hash-algorithm":"sha512","tpm":{"credential-blob":"","encrypted-secret":""}}}`))
	f.Add([]byte(`{"init-data":{"format":"toml","body":"x"},"runtime-data":{"nonce":"x","tee-pubkey":` + vectorKey + `},"tee-evidence":{"primary_evidence":{"a":1},"additional_evidence":""}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodeRequest(b); err == nil {
			_, _ = r.Extra()
		}
		if c, _, err := DecodeChallenge(b); err == nil {
			_, _ = SelectedHash(c.ExtraParams)
			_, _ = NonceBytes(c.Nonce)
		}
		if a, err := DecodeAttestation(b); err == nil {
			if k, err := ParseTEEKey(a.RuntimeData.TEEPubKey); err == nil {
				if _, err := RuntimeDataHash(DefaultHash, a.RuntimeData.Nonce, k, a.TEEEvidence.Additional); err != nil {
					t.Error(err)
				}
				_, _ = Seal(k, []byte("x"))
			}
		}
		c, err := Canonicalize(b)
		if err != nil {
			return
		}
		if again, err := Canonicalize(c); err != nil || !bytes.Equal(c, again) {
			t.Errorf("%q became %q, then %q: %v", b, c, again, err)
		}
	})
}
