package kbs

import (
	"crypto/mlkem"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
)

// Samples 4 and 5 of NIST's examples for KMAC256.
func TestKMAC(t *testing.T) {
	key, x := make([]byte, 32), make([]byte, 200)
	for i := range key {
		key[i] = byte(0x40 + i)
	}
	for i := range x {
		x[i] = byte(i)
	}
	for want, got := range map[string][]byte{
		"20c570c31346f703c9ac36c61c03cb64c3970d0cfc787e9b79599d273a68d2f7f69d4cc3de9d104a351689f27cf6f5951f0103f33f4f24871024d9c27773a8dd": kmac256(key, x[:4], 64, "My Tagged Application"),
		"75358cf39e41494e949707927cee0af20a3ff553904c86b08f21cc414bcfd691589d27cf5e15369cbbff8b9a4c2eb17800855d0235ff635da82533ec6b759b69": kmac256(key, x, 64, ""),
	} {
		if hex.EncodeToString(got) != want {
			t.Errorf("%x, want %s", got, want)
		}
	}
}

func TestSealForMLKEM(t *testing.T) {
	priv, err := mlkem.GenerateKey768()
	if err != nil {
		t.Fatal(err)
	}
	jwk := `{"kty":"AKP","alg":"ML-KEM-768+A192KW","pub":"` + base64.RawURLEncoding.EncodeToString(priv.EncapsulationKey().Bytes()) + `"}`
	if len(jwk) != len(`{"kty":"AKP","alg":"ML-KEM-768+A192KW","pub":""}`)+1579 {
		t.Errorf("key of %d characters", len(jwk))
	}
	k, err := ParseTEEKey([]byte(strings.Replace(jwk, "{", `{"kid":"dropped",`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	canon, err := k.MarshalJSON()
	if err != nil || !strings.HasPrefix(string(canon), `{"alg":"ML-KEM-768+A192KW","kty":"AKP","pub":"`) {
		t.Errorf("%s %v", canon, err)
	}
	raw, err := Seal(k, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	var j map[string]string
	if err := json.Unmarshal(raw, &j); err != nil {
		t.Fatal(err)
	}
	d := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const before = `{"alg":"ML-KEM-768+A192KW","enc":"A256GCM","ek":"`
	ek, ok := strings.CutPrefix(string(d(j["protected"])), before)
	if !ok {
		t.Fatalf("header %s", d(j["protected"]))
	}
	shared, err := priv.Decapsulate(d(strings.TrimSuffix(ek, `"}`)))
	if err != nil {
		t.Fatal(err)
	}
	// X by hand: 17 characters of name, 192 bits.
	kek := kmac256(shared, append(append([]byte{0, 0, 0, 17}, "ML-KEM-768+A192KW"...), 0, 0, 0, 192), 24, "")
	if len(d(j["encrypted_key"])) != 40 {
		t.Errorf("wrapped key of %d bytes", len(d(j["encrypted_key"])))
	}
	cek, err := unwrapKey(kek, d(j["encrypted_key"]))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := newGCM(cek)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gcm.Open(nil, d(j["iv"]), append(d(j["ciphertext"]), d(j["tag"])...), []byte(j["protected"]))
	if err != nil || string(plain) != "secret" {
		t.Errorf("%q, %v", plain, err)
	}
	for _, bad := range []string{`{"kty":"AKP","alg":"ML-KEM-768+A192KW","pub":"AAAA"}`, strings.Replace(jwk, "768", "512", 1), strings.Replace(jwk, `"pub"`, `"Pub"`, 1)} {
		k, err := ParseTEEKey([]byte(bad))
		if err == nil {
			err = k.Check()
		}
		if err == nil {
			t.Errorf("%.60s: taken", bad)
		}
	}
}
