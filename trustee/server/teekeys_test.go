package server

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/json"
	"fmt"
	"math/big"
	"testing"
)

// jweKey is what a client has of a response: its header and the wrapped key.
type jweKey struct {
	Alg, Enc, Ek string
	Epk          struct{ Crv, Kty, X, Y string }
	wrapped      []byte
}

// openJWE decrypts a response whose content key unwrap finds.
func openJWE(t *testing.T, raw []byte, unwrap func(*jweKey) []byte) string {
	t.Helper()
	var j map[string]string
	if err := json.Unmarshal(raw, &j); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	part := func(name string) []byte {
		b, err := rawURL.DecodeString(j[name])
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	k := &jweKey{wrapped: part("encrypted_key")}
	if err := json.Unmarshal(part("protected"), k); err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(unwrap(k))
	if err != nil {
		t.Fatal(err)
	}
	g, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := g.Open(nil, part("iv"), append(part("ciphertext"), part("tag")...), []byte(j["protected"]))
	if err != nil {
		t.Fatal(err)
	}
	return string(plain)
}

// teeKey makes a key pair of one kind: the JWK, and how a client unwraps with it.
func teeKey(t *testing.T, kind string) (jwk string, unwrapKey func(*jweKey) []byte) {
	t.Helper()
	curve := func(c ecdh.Curve, crv string, size int) (string, func(*jweKey) []byte) {
		k, err := c.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		p := k.PublicKey().Bytes()
		return fmt.Sprintf(`{"alg":"ECDH-ES+A256KW","crv":%q,"kty":"EC","x":%q,"y":%q}`, crv, b64url(p[1:1+size]), b64url(p[1+size:])), func(j *jweKey) []byte {
			x, _ := rawURL.DecodeString(j.Epk.X)
			y, _ := rawURL.DecodeString(j.Epk.Y)
			if j.Epk.Crv != crv || len(x) != size || len(y) != size {
				t.Fatalf("ephemeral key %+v", j.Epk)
			}
			epk, err := c.NewPublicKey(append(append([]byte{4}, x...), y...))
			if err != nil {
				t.Fatal(err)
			}
			z, err := k.ECDH(epk)
			if err != nil {
				t.Fatal(err)
			}
			return unwrap(t, kdf(z), j.wrapped)
		}
	}
	switch kind {
	case "P-384":
		return curve(ecdh.P384(), kind, 48)
	case "P-521":
		return curve(ecdh.P521(), kind, 66)
	case "RSA-OAEP-256":
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`{"alg":"RSA-OAEP-256","e":%q,"kty":"RSA","n":%q}`, b64url(big.NewInt(int64(k.E)).Bytes()), b64url(k.N.Bytes())), func(j *jweKey) []byte {
			cek, err := rsa.DecryptOAEP(sha256.New(), nil, k, j.wrapped, nil)
			if err != nil || j.Alg != kind {
				t.Fatalf("%s: %v", j.Alg, err)
			}
			return cek
		}
	}
	k, err := mlkem.GenerateKey768()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"alg":"ML-KEM-768+A192KW","kty":"AKP","pub":%q}`, b64url(k.EncapsulationKey().Bytes())), func(j *jweKey) []byte {
		ct, _ := rawURL.DecodeString(j.Ek)
		shared, err := k.Decapsulate(ct)
		if err != nil || j.Alg != "ML-KEM-768+A192KW" {
			t.Fatalf("%s: %v", j.Alg, err)
		}
		// KMAC256 of SP 800-185 for this one key and length: 32 bytes of key, 24 of output.
		h := sha3.NewCSHAKE256([]byte("KMAC"), nil)
		block := make([]byte, 136)
		copy(block, append([]byte{1, 136, 2, 1, 0}, shared...))
		h.Write(block)
		h.Write(append([]byte{0, 0, 0, 17}, "ML-KEM-768+A192KW\x00\x00\x00\xc0"...))
		h.Write([]byte{192, 1})
		kek := make([]byte, 24)
		h.Read(kek)
		return unwrap(t, kek, j.wrapped)
	}
}

// Clients with each kind of TEE key read what only they can.
func TestTEEKeys(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	for _, kind := range []string{"P-384", "P-521", "RSA-OAEP-256", "ML-KEM-768"} {
		t.Run(kind, func(t *testing.T) {
			c := w.client("")
			var unwrapKey func(*jweKey) []byte
			c.pub, unwrapKey = teeKey(t, kind)
			c.handshake(doc)
			for _, a := range []*answer{c.get(secretName), w.client("").get(secretName, "Authorization", "Bearer "+c.token)} {
				if got := openJWE(t, a.body, unwrapKey); got != "hunter2" {
					t.Errorf("secret %q", got)
				}
			}
		})
	}
	for name, pub := range map[string]string{
		"RSA1_5":          `{"alg":"RSA1_5","e":"AQAB","kty":"RSA","n":"` + b64url(append([]byte{0x80}, make([]byte, 255)...)) + `"}`,
		"a short ML-KEM":  `{"alg":"ML-KEM-768+A192KW","kty":"AKP","pub":"AAAA"}`,
		"ML-KEM-1024":     `{"alg":"ML-KEM-1024+A256KW","kty":"AKP","pub":"AAAA"}`,
		"a foreign curve": `{"alg":"ECDH-ES+A256KW","crv":"P-224","kty":"EC","x":"AAAA","y":"AAAA"}`,
	} {
		c := w.client("")
		c.pub = pub
		c.auth(fakeTEE, `""`)
		if a := c.attest(c.fake(doc), doc); a.status != 403 || a.err.Reason != "tee-key-unusable" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

// The published administration with the administrator's token: what it sets is in
// force, and what has no meaning here is not taken.
func TestPublishedAdministration(t *testing.T) {
	w := newWorld(t)
	c := w.client("")
	send := func(method, path, body string) *answer {
		return c.do(method, path, []byte(body), "Authorization", "Bearer "+w.admin.token(method, "/kbs/v0"+path))
	}
	doc := document(t, "pod a")
	if a := send("POST", "/attestation-policy", `{"type":"rego","policy_id":"default_cpu","policy":"`+b64url([]byte("package policy\ntrust_claims := {\"hardware\": 97}\n"))+`"}`); a.status != 200 || len(a.body) != 0 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	w.bindSecret("default", secretName, "hunter2", doc)
	c.handshake(doc)
	denied(t, w, c.get(secretName), 403, "status-unacceptable")
	if a := send("POST", "/reference-value", `{"type":"sample","payload":"eyJhL2I6YyI6eyJuIjoxfSwic3ZuIjpbMV19"}`); a.status != 200 || len(a.body) != 0 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := send("GET", "/reference-value/a/b:c", ""); string(a.body) != `{"n":1}` {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := send("POST", "/reference-value", `{"type":"sample","payload":"eyJzdm4iOlsyXX0="}`); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := send("GET", "/reference-value/svn", ""); string(a.body) != `[2]` {
		t.Errorf("a value of the same name is not replaced: %s", a.body)
	}
	for _, tc := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/reference-value/none", "", 404}, {"GET", "/reference-value", "", 404}, {"DELETE", "/reference-value/svn", "", 404},
		{"POST", "/reference-value", `{"type":"corim","payload":""}`, 400}, {"POST", "/reference-value", `{"type":"sample","payload":"e30="}`, 400},
		{"POST", "/attestation-policy", `{"policy_id":"default_cpu","policy":"%"}`, 400}, {"POST", "/attestation-policy", `{"policy_id":"default_cpu","policy":"","x":1}`, 400},
		{"POST", "/attestation-policy", `{"policy_id":"default_cpu","policy":""}`, 400},
		{"POST", "/resource-policy", `{"policy":""}`, 400}, {"POST", "/resource-policy", `{"policy":"%"}`, 400}, {"POST", "/resource-policy", `{"policy":"","x":1}`, 400},
		{"GET", "/resource-policy", "", 200},
	} {
		if a := send(tc.method, tc.path, tc.body); a.status != tc.status {
			t.Errorf("%s %s %s: %d %s", tc.method, tc.path, tc.body, a.status, a.body)
		}
		if tc.status == 404 && tc.path != "/reference-value/none" {
			continue // no such path, whoever asks
		}
		if a := c.do(tc.method, tc.path, []byte(tc.body)); a.status != 401 || a.err.Reason != "admin-unauthenticated" {
			t.Errorf("%s %s without a credential: %d %s", tc.method, tc.path, a.status, a.body)
		}
	}
}
