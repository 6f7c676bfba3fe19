package sm_test

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cofferproject/coffer/tee/internal/sm"
	"github.com/cofferproject/coffer/tee/internal/sm/smtest"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The example of GB/T 32918.5-2017, annex A: key, nonce, digest and signature.
func TestStandardExample(t *testing.T) {
	key, err := smtest.KeyOf(new(big.Int).SetBytes(unhex(t, "3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8")))
	if err != nil {
		t.Fatal(err)
	}
	x, y := unhex(t, "09F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020"), unhex(t, "CCEA490CE26775A52DC6EA718CC1AA600AED05FBF35E084A6632F6072DA9AD13")
	if !bytes.Equal(key.Public.Bytes(), append(bytes.Clone(x), y...)) {
		t.Errorf("public key %x", key.Public.Bytes())
	}
	pub, err := sm.NewPublicKey(x, y)
	if err != nil {
		t.Fatal(err)
	}
	id, message := []byte("1234567812345678"), []byte("message digest")
	e, err := pub.Digest(id, message)
	if err != nil || !bytes.Equal(e, unhex(t, "F0B43E94BA45ACCAACE692ED534382EB17E6AB5A19CE7B31F4486FDFC0D28640")) {
		t.Errorf("digest %x, %v", e, err)
	}
	wantR, wantS := unhex(t, "F5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEEE720B3"), unhex(t, "B1B6AA29DF212FD8763182BC0D421CA1BB9038FD1F7F42D4840B69C485BBC1AA")
	r, s, err := key.SignWith(new(big.Int).SetBytes(unhex(t, "59276E27D506861A16680F3AD9C02DCCEF3CC1FA3CDBE4CE6D54B80DEAC1BC21")), id, message)
	if err != nil || !bytes.Equal(r, wantR) || !bytes.Equal(s, wantS) {
		t.Errorf("signature %x, %x, %v", r, s, err)
	}
	if !pub.Verify(id, message, wantR, wantS) {
		t.Error("the standard's signature is refused")
	}
	for name, bad := range map[string]bool{
		"other id": pub.Verify([]byte("1234567812345679"), message, r, s), "other message": pub.Verify(id, []byte("message digesT"), r, s),
		"r and s exchanged": pub.Verify(id, message, s, r), "s negated": pub.Verify(id, message, r, new(big.Int).Sub(sm.Order(), new(big.Int).SetBytes(s)).Bytes()),
		"r plus the order": pub.Verify(id, message, new(big.Int).Add(sm.Order(), new(big.Int).SetBytes(r)).Bytes(), s),
		"zero r":           pub.Verify(id, message, make([]byte, 32), s), "zero s": pub.Verify(id, message, r, nil),
		"r + s = n": pub.Verify(id, message, r, new(big.Int).Sub(sm.Order(), new(big.Int).SetBytes(r)).Bytes()),
		"long id":   pub.Verify(make([]byte, sm.MaxID+1), message, r, s),
	} {
		if bad {
			t.Errorf("%s: accepted", name)
		}
	}
	for i := range r {
		bent := bytes.Clone(r)
		bent[i] ^= 1 << (i % 8)
		if pub.Verify(id, message, bent, s) {
			t.Errorf("r bent in byte %d: accepted", i)
		}
	}
}

func TestKeysAreOnTheCurve(t *testing.T) {
	x, y := unhex(t, "09F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020"), unhex(t, "CCEA490CE26775A52DC6EA718CC1AA600AED05FBF35E084A6632F6072DA9AD13")
	p := unhex(t, "fffffffeffffffffffffffffffffffffffffffff00000000ffffffffffffffff")
	for name, c := range map[string][2][]byte{
		"zero": {nil, nil}, "exchanged": {y, x}, "not reduced": {new(big.Int).Add(new(big.Int).SetBytes(x), new(big.Int).SetBytes(p)).Bytes(), y}, "other y": {x, x},
	} {
		if _, err := sm.NewPublicKey(c[0], c[1]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// OpenSSL, where it is there, signs and we verify; we sign and it verifies.
func TestAgainstOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("no openssl")
	}
	dir := t.TempDir()
	run := func(args ...string) []byte {
		cmd := exec.Command("openssl", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Skipf("openssl %v: %v: %s", args, err, out)
		}
		return out
	}
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run("ecparam", "-name", "SM2", "-genkey", "-noout", "-out", "key.pem")
	run("pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "pub.der")
	der, err := os.ReadFile(filepath.Join(dir, "pub.der"))
	if err != nil || len(der) < 65 {
		t.Fatalf("%d bytes, %v", len(der), err)
	}
	pub, err := sm.NewPublicKey(der[len(der)-64:len(der)-32], der[len(der)-32:])
	if err != nil {
		t.Fatal(err)
	}
	const id = "HYGON-SSD-PEK"
	for _, message := range []string{"", "a", string(make([]byte, 64)), string(bytes.Repeat([]byte("coffer"), 700))} {
		write("msg", []byte(message))
		run("pkeyutl", "-sign", "-rawin", "-digest", "sm3", "-inkey", "key.pem", "-pkeyopt", "distid:"+id, "-in", "msg", "-out", "sig")
		sig, err := os.ReadFile(filepath.Join(dir, "sig"))
		if err != nil {
			t.Fatal(err)
		}
		var v struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(sig, &v); err != nil {
			t.Fatal(err)
		}
		if !pub.Verify([]byte(id), []byte(message), v.R.Bytes(), v.S.Bytes()) {
			t.Errorf("%d bytes: OpenSSL's signature is refused", len(message))
		}
		if pub.Verify([]byte(id), []byte(message+"x"), v.R.Bytes(), v.S.Bytes()) {
			t.Errorf("%d bytes: a longer message is accepted", len(message))
		}
	}
	t.Log("checked against OpenSSL")
}

func BenchmarkVerify(b *testing.B) {
	key, err := smtest.NewKey()
	if err != nil {
		b.Fatal(err)
	}
	r, s, err := key.Sign([]byte("id"), []byte("message"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !key.Public.Verify([]byte("id"), []byte("message"), r, s) {
			b.Fatal("signature")
		}
	}
}
