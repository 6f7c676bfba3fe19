package measure

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/intel/quote"
)

// signer is a key of openssl's, of 3072 bits with exponent 3.
func signer(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	block, _ := pem.Decode(testdata(t, "signer.pem"))
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return k.(*rsa.PrivateKey)
}

// TestSignAsOthers: what is signed is, byte for byte, what another project's signer has
// signed of the same enclave.
func TestSignAsOthers(t *testing.T) {
	theirs := testdata(t, "test_enclave.sig")
	s, err := ParseSigstruct(theirs)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := Sign(s.MREnclave, &Signing{ProductID: s.ProductID, SVN: s.SVN, AllowDebug: true, Date: time.Date(2016, 12, 14, 23, 0, 0, 0, time.UTC)}, signer(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range sigSigned {
		if !bytes.Equal(f.of(ours), f.of(theirs)) {
			t.Errorf("bytes from %d:\n%x\n%x", f.at, f.of(ours), f.of(theirs))
		}
	}
}

func TestSign(t *testing.T) {
	mr := sha256.Sum256([]byte("enclave"))
	key := signer(t)
	want := Signing{ProductID: 7, SVN: 3, KSS: true, FamilyID: [16]byte{1}, ExtProductID: [16]byte{15: 2}, Date: time.Unix(1_800_000_000, 0)}
	b, err := Sign(mr, &want, key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSigstruct(b)
	if err != nil {
		t.Fatal(err)
	}
	le := key.N.FillBytes(make([]byte, 384))
	for i := range 192 {
		le[i], le[383-i] = le[383-i], le[i]
	}
	flags, open := s.ReportFlags()
	if s.MREnclave != mr || s.MRSigner != sha256.Sum256(le) || s.ProductID != 7 || s.SVN != 3 || s.FamilyID != want.FamilyID || s.ExtProductID != want.ExtProductID ||
		flags != quote.FlagInit|quote.FlagMode64|quote.FlagKSS || open != 0 {
		t.Errorf("%+v, flags %#x, open %#x", s, flags, open)
	}
	for i := range b { // nothing of it may be another
		bent := bytes.Clone(b)
		bent[i] ^= 1
		if x, err := ParseSigstruct(bent); err == nil && (i < 40 || i >= 44) { // SWDEFINED is signed, and checked by the signature
			t.Fatalf("byte %d bent: %+v", i, x)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	other, err := rsa.GenerateKey(rand.Reader, 3072) // exponent 65537
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Sign([32]byte{}, &Signing{Date: now}, other); err == nil {
		t.Error("a key with another exponent")
	}
	if _, err := Sign([32]byte{}, &Signing{Date: now, FamilyID: [16]byte{1}}, signer(t)); err == nil {
		t.Error("a family id without KSS")
	}
	if _, err := Sign([32]byte{}, &Signing{}, signer(t)); err == nil {
		t.Error("no date")
	}
}
