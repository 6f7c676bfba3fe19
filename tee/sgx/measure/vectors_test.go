package measure

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cofferproject/coffer/tee/intel/quote"
)

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func outsideEnclave(t testing.TB) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(testdata(t, "test_enclave.sgxs.gz")))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An enclave of another project, measured by that project's own signer.
func TestOutsideEnclave(t *testing.T) {
	s, err := ParseSigstruct(testdata(t, "test_enclave.sig"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := FromSGXS(bytes.NewReader(outsideEnclave(t)))
	if err != nil || got != s.MREnclave {
		t.Errorf("MRENCLAVE %x, %v, the signer says %x", got, err, s.MREnclave)
	}
	flags, open := s.ReportFlags()
	if s.ProductID != 0xffff || s.SVN != 0 || flags != quote.FlagMode64|quote.FlagInit || open != quote.FlagDebug {
		t.Errorf("%+v, flags %#x, open %#x", s, flags, open)
	}
}

// The signature is by the key that signed the enclave of the published Occlum quote;
// its MRSIGNER is what that machine's CPU reported (tee/sgx/verifier has the quote).
func TestMRSigner(t *testing.T) {
	s, err := ParseSigstruct(testdata(t, "sig1.sigstruct.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if h := hex.EncodeToString(s.MRSigner[:]); h != "83d719e77deaca1470f6baf62a4d774303c899db69020f9c70ee1dfc08c7ce9e" {
		t.Errorf("MRSIGNER %s", h)
	}
	if h := hex.EncodeToString(s.MREnclave[:]); h != "c50673624a6cb17c1c6c2a4e6906f47a170c4629b8723781d1017ef376f1a75d" {
		t.Errorf("MRENCLAVE %s", h)
	}
}

func TestBentSigstruct(t *testing.T) {
	good := testdata(t, "test_enclave.sig")
	for n := range good { // every byte is fixed, signed or follows from the signature
		b := bytes.Clone(good)
		b[n] ^= 1
		if _, err := ParseSigstruct(b); err == nil {
			t.Errorf("byte %d bent: accepted", n)
		}
	}
	for name, b := range map[string][]byte{"empty": nil, "cut": good[:SigstructSize-1], "padded": append(bytes.Clone(good), 0)} {
		if _, err := ParseSigstruct(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// A signature of zeros under a modulus of zeros proves nothing.
	b := bytes.Clone(good)
	for _, f := range []field{sigModulus, sigSignature, sigQ1, sigQ2} {
		clear(f.of(b))
	}
	if _, err := ParseSigstruct(b); err == nil {
		t.Error("modulus 0: accepted")
	}
}

func TestOutsideEnclaveBent(t *testing.T) {
	sgxs := outsideEnclave(t)
	want, err := FromSGXS(bytes.NewReader(sgxs))
	if err != nil {
		t.Fatal(err)
	}
	code := slices.Index(sgxs, 0xcc)
	flags := bytes.Index(sgxs, []byte("EADD")) + 16
	for name, bend := range map[string]func([]byte){
		"code": func(b []byte) { b[code]++ }, "permissions": func(b []byte) { b[flags] |= byte(Write) },
		"size": func(b []byte) { binary.LittleEndian.PutUint64(b[12:], 0x80000) }, "SSA frame": func(b []byte) { b[8]++ },
	} {
		b := bytes.Clone(sgxs)
		bend(b)
		if got, err := FromSGXS(bytes.NewReader(b)); err != nil || got == want {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
}

func FuzzSigstruct(f *testing.F) {
	one, other := testdata(f, "test_enclave.sig"), testdata(f, "sig1.sigstruct.bin")
	f.Add(one)
	f.Add(other)
	f.Fuzz(func(t *testing.T, b []byte) {
		// Fuzzing forges no signature, so nothing but the seeds can pass.
		if s, err := ParseSigstruct(b); err == nil && !bytes.Equal(b, one) && !bytes.Equal(b, other) {
			t.Errorf("accepted: %+v", s)
		}
	})
}
