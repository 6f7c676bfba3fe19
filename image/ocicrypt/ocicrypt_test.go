package ocicrypt

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/cofferproject/coffer/test/vectors"
)

// sampleKEK is the publicly known key of the published sample, see the shared
// spec guest-components, section 4.1.
const sampleKEK = "2Zt3BbC6ehaClbOjNnJwsN2bNxv1FMqLm6fwozcR2uo="

func unb64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSampleVector(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "ocicrypt"), "sample_kbc_annotation.json"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParsePacket(b)
	if err != nil {
		t.Fatal(err)
	}
	if p.KID != "kbs:///default/key/1" || p.Provider != "kbs" {
		t.Errorf("packet %+v", p)
	}
	plbco, err := p.Open(unb64(t, sampleKEK))
	if err != nil {
		t.Fatal(err)
	}
	priv, err := ParsePrivateOptions(plbco)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(priv.SymKey, unb64(t, "1jL2jJV0Oyz2nmPkLtqulW6cKcpIUN5FpILcVnP5Uqs=")) ||
		!bytes.Equal(priv.Opts["nonce"], unb64(t, "r10F9oaCu+nWFXfod3l83g==")) ||
		priv.Digest != "sha256:18be1897f9402f27c8c0eba7c86e0c00f5656db62961b5949d55f9565c42c6e7" {
		t.Errorf("private options differ from the published ones")
	}
	for i := range p.WrappedData {
		p.WrappedData[i] ^= 1
		if _, err := p.Open(unb64(t, sampleKEK)); err == nil {
			t.Fatalf("byte %d changed and still opened", i)
		}
		p.WrappedData[i] ^= 1
	}
}

type kek []byte

func (k kek) UnwrapKey(_ context.Context, packet []byte) ([]byte, error) {
	p, err := ParsePacket(packet)
	if err != nil {
		return nil, err
	}
	return p.Open(k)
}

// encrypted gives ciphertext and annotations of plain under a fixed layer key.
func encrypted(t testing.TB, plain []byte, keys ...[]byte) ([]byte, map[string]string) {
	t.Helper()
	sym, nonce := bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{9}, 16)
	block, err := aes.NewCipher(sym)
	if err != nil {
		t.Fatal(err)
	}
	ct := make([]byte, len(plain))
	cipher.NewCTR(block, nonce).XORKeyStream(ct, plain)
	mac := hmac.New(sha256.New, sym)
	mac.Write(ct)
	pub, err := json.Marshal(PublicOptions{Cipher: Cipher, HMAC: mac.Sum(nil), Opts: map[string][]byte{}})
	if err != nil {
		t.Fatal(err)
	}
	priv, err := json.Marshal(PrivateOptions{SymKey: sym, Digest: "sha256:" + "18be1897f9402f27c8c0eba7c86e0c00f5656db62961b5949d55f9565c42c6e7", Opts: map[string][]byte{"nonce": nonce}})
	if err != nil {
		t.Fatal(err)
	}
	var packets []string
	for _, k := range keys {
		packet, err := Seal("kbs:///default/key/1", k, priv)
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, base64.StdEncoding.EncodeToString(packet))
	}
	return ct, map[string]string{AnnotationKeys: strings.Join(packets, ","), AnnotationPubOpts: base64.StdEncoding.EncodeToString(pub)}
}

func decrypt(t *testing.T, ct []byte, a map[string]string, u Unwrapper) ([]byte, error) {
	t.Helper()
	pub, err := ParsePublicOptions(a)
	if err != nil {
		return nil, err
	}
	priv, err := UnwrapOptions(t.Context(), a, u)
	if err != nil {
		return nil, err
	}
	r, err := NewReader(iotest.OneByteReader(bytes.NewReader(ct)), pub, priv)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestRoundTrip(t *testing.T) {
	mine, other := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	plain := []byte(strings.Repeat("layer ", 100))
	ct, a := encrypted(t, plain, other, mine) // the second recipient is us
	got, err := decrypt(t, ct, a, kek(mine))
	if err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%v", err)
	}
	if _, err := decrypt(t, ct, a, kek(bytes.Repeat([]byte{3}, 32))); err == nil || !strings.Contains(err.Error(), "kbs:///default/key/1") {
		t.Errorf("foreign key: %v", err)
	}
	for name, bad := range map[string][]byte{"cut": ct[:len(ct)-1], "longer": append(bytes.Clone(ct), 0), "changed": append([]byte{ct[0] ^ 1}, ct[1:]...), "empty": nil} {
		if _, err := decrypt(t, bad, a, kek(mine)); !errors.Is(err, ErrMAC) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBadAnnotations(t *testing.T) {
	mine := bytes.Repeat([]byte{1}, 32)
	ct, a := encrypted(t, []byte("x"), mine)
	change := func(k, v string) map[string]string {
		m := map[string]string{AnnotationKeys: a[AnnotationKeys], AnnotationPubOpts: a[AnnotationPubOpts]}
		if m[k] = v; v == "" {
			delete(m, k)
		}
		return m
	}
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for name, c := range map[string]struct {
		a    map[string]string
		want string
	}{
		"no keys":      {change(AnnotationKeys, ""), "without annotation"},
		"no pubopts":   {change(AnnotationPubOpts, ""), "without annotation"},
		"jwe only":     {map[string]string{AnnotationPubOpts: a[AnnotationPubOpts], "org.opencontainers.image.enc.keys.jwe": "x"}, "jwe"},
		"bad base64":   {change(AnnotationKeys, "%%"), "recipient 0"},
		"recipients":   {change(AnnotationKeys, strings.Repeat("e30=,", 40)), "41 recipients"},
		"version":      {change(AnnotationKeys, b64(`{"version":"9","kid":"a","wrapped_data":"AA==","iv":"AA==","wrap_type":"A256GCM"}`)), "version"},
		"ctr":          {change(AnnotationKeys, b64(`{"kid":"a","wrapped_data":"AA==","iv":"AAAAAAAAAAAAAAAA","wrap_type":"A256CTR"}`)), "A256CTR"},
		"no iv":        {change(AnnotationKeys, b64(`{"kid":"a","wrapped_data":"AA==","wrap_type":"A256GCM"}`)), "iv"},
		"other cipher": {change(AnnotationPubOpts, b64(`{"cipher":"NONE","hmac":"AA=="}`)), "NONE"},
		"hmac length":  {change(AnnotationPubOpts, b64(`{"cipher":"`+Cipher+`","hmac":"AA=="}`)), "HMAC of 1"},
		"huge":         {change(AnnotationKeys, strings.Repeat("A", MaxAnnotation+1)), "more than"},
	} {
		if _, err := decrypt(t, ct, c.a, kek(mine)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if p, err := ParsePacket([]byte(`{"version":"0.1.0","kid":"k","wrapped_data":"AA==","provider":"aliyun","provider_settings":{"r":"x"},"annotations":{}}`)); err != nil || p.Provider != "aliyun" {
		t.Errorf("KMS packet: %v", err)
	}
}

func FuzzPacket(f *testing.F) {
	mine := bytes.Repeat([]byte{1}, 32)
	_, a := encrypted(f, []byte("x"), mine)
	f.Add(a[AnnotationKeys], a[AnnotationPubOpts])
	f.Add(base64.StdEncoding.EncodeToString([]byte(`{"kid":"k","wrapped_data":"AA=="}`)), "e30=")
	f.Fuzz(func(t *testing.T, keys, pub string) {
		m := map[string]string{AnnotationKeys: keys, AnnotationPubOpts: pub}
		_, _ = ParsePublicOptions(m)
		if priv, err := UnwrapOptions(t.Context(), m, kek(mine)); err == nil && len(priv.SymKey) != 32 {
			t.Fatal("short key accepted")
		}
	})
}

func BenchmarkDecrypt(b *testing.B) {
	mine := bytes.Repeat([]byte{1}, 32)
	ct, a := encrypted(b, make([]byte, 16<<20), mine)
	pub, err := ParsePublicOptions(a)
	if err != nil {
		b.Fatal(err)
	}
	priv, err := UnwrapOptions(b.Context(), a, kek(mine))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(ct)))
	for b.Loop() {
		r, err := NewReader(bytes.NewReader(ct), pub, priv)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, buf); err != nil {
			b.Fatal(err)
		}
	}
}
