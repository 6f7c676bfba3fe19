package quote

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/azure"
	"github.com/cofferproject/coffer/tee/tpm"
	"github.com/cofferproject/coffer/test/vectors"
)

var checker = Checker{Component: "test", Malformed: "malformed", Signature: "signature", Selection: "selection", Digest: "digest"}

func reason(err error) denial.Reason {
	if d, ok := denial.As(err); ok {
		return d.Reason
	}
	return ""
}

// pcrs gives listed values of which no two are the same.
func pcrs() [][32]byte {
	out := make([][32]byte, 24)
	for i := range out {
		out[i][0], out[i][31] = byte(i), 1
	}
	return out
}

// message is a quote over registers of one bank.
func message(bank tpm2.TPMIAlgHash, registers ...int) []byte {
	h, sel := sha256.New(), make([]byte, 3)
	for i, v := range pcrs() {
		for _, r := range registers {
			if r == i {
				h.Write(v[:])
				sel[i/8] |= 1 << (i % 8)
			}
		}
	}
	return attest(tpm2.TPMSTAttestQuote, tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
		PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: bank, PCRSelect: sel}}},
		PCRDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)},
	}))
}

func attest(typ tpm2.TPMISTAttest, body tpm2.TPMUAttest) []byte {
	return tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: typ, QualifiedSigner: tpm2.TPM2BName{Buffer: make([]byte, 34)},
		ExtraData: tpm2.TPM2BData{Buffer: []byte("session")}, Attested: body,
	})
}

// signed is a quote with its signature and key.
type signed struct {
	name     string
	key      crypto.PublicKey
	sig, msg []byte
	pcrs     [][32]byte
}

// schemes signs one message in every accepted way.
func schemes(t testing.TB) []signed {
	t.Helper()
	msg := message(tpm2.TPMAlgSHA256, 0, 8, 23)
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	var out []signed
	for _, h := range []struct {
		name string
		alg  tpm2.TPMIAlgHash
		id   crypto.Hash
		sum  []byte
	}{
		{"SHA-256", tpm2.TPMAlgSHA256, crypto.SHA256, func() []byte { s := sha256.Sum256(msg); return s[:] }()},
		{"SHA-384", tpm2.TPMAlgSHA384, crypto.SHA384, func() []byte { s := sha512.Sum384(msg); return s[:] }()},
	} {
		ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		x, y, err := ecdsa.Sign(rand.Reader, ec, h.sum)
		if err != nil {
			t.Fatal(err)
		}
		ssa, err := rsa.SignPKCS1v15(rand.Reader, r, h.id, h.sum)
		if err != nil {
			t.Fatal(err)
		}
		pss, err := rsa.SignPSS(rand.Reader, r, h.id, h.sum, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		if err != nil {
			t.Fatal(err)
		}
		add := func(name string, key crypto.PublicKey, alg tpm2.TPMIAlgSigScheme, s tpm2.TPMUSignature) {
			out = append(out, signed{name + " " + h.name, key, tpm2.Marshal(tpm2.TPMTSignature{SigAlg: alg, Signature: s}), msg, pcrs()})
		}
		add("ECDSA", ec.Public(), tpm2.TPMAlgECDSA, tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash: h.alg, SignatureR: tpm2.TPM2BECCParameter{Buffer: x.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: y.Bytes()},
		}))
		add("RSASSA", r.Public(), tpm2.TPMAlgRSASSA, tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{Hash: h.alg, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: ssa}}))
		add("RSAPSS", r.Public(), tpm2.TPMAlgRSAPSS, tpm2.NewTPMUSignature(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSignatureRSA{Hash: h.alg, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: pss}}))
	}
	return out
}

func TestSchemes(t *testing.T) {
	all := schemes(t)
	for i, s := range all {
		if err := checker.VerifySignature(s.key, s.sig, s.msg); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		for n := range s.sig {
			b := bytes.Clone(s.sig)
			b[n] ^= 1
			if err := checker.VerifySignature(s.key, b, s.msg); reason(err) != "signature" {
				t.Errorf("%s, byte %d of the signature bent: %v", s.name, n, err)
			}
		}
		other := all[0].key // ECDSA
		if i%3 == 0 {
			other = all[1].key
		}
		for name, c := range map[string]signed{
			"another message": {key: s.key, sig: s.sig, msg: s.msg[1:]}, "padded": {key: s.key, sig: append(bytes.Clone(s.sig), 0), msg: s.msg},
			"empty": {key: s.key, msg: s.msg}, "no key": {sig: s.sig, msg: s.msg}, "another kind of key": {key: other, sig: s.sig, msg: s.msg},
		} {
			if err := checker.VerifySignature(c.key, c.sig, c.msg); reason(err) != "signature" {
				t.Errorf("%s, %s: %v", s.name, name, err)
			}
		}
	}
}

func TestQuote(t *testing.T) {
	q, err := checker.Parse(message(tpm2.TPMAlgSHA256, 0, 8, 23))
	if err != nil || string(q.ExtraData) != "session" {
		t.Fatalf("%+v, %v", q, err)
	}
	v, err := Values(&checker, q, pcrs(), []int{0, 8})
	if err != nil || len(v) != 3 || v[8] != pcrs()[8] {
		t.Errorf("%v, %v", v, err)
	}
	exchanged := pcrs()
	exchanged[0], exchanged[8] = exchanged[8], exchanged[0]
	unquoted := pcrs()
	unquoted[1][0]++ // not covered: may say anything, and is not given back
	for name, c := range map[string]struct {
		listed   [][32]byte
		required []int
		want     denial.Reason
	}{
		"left out": {pcrs(), []int{0, 9}, "selection"}, "list too short": {pcrs()[:23], []int{0}, "selection"}, "no list": {nil, nil, "selection"},
		"exchanged": {exchanged, []int{0}, "digest"}, "not covered": {unquoted, []int{0}, ""},
	} {
		if v, err := Values(&checker, q, c.listed, c.required); reason(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v, %v", name, v, err)
		}
	}
	if q, err = checker.Parse(message(tpm2.TPMAlgSHA1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := Values(&checker, q, pcrs(), nil); reason(err) != "selection" {
		t.Errorf("another bank: %v", err)
	}
	msg := message(tpm2.TPMAlgSHA256, 0)
	stranger := bytes.Clone(msg)
	stranger[0] ^= 1
	for name, b := range map[string][]byte{
		"empty": nil, "cut": msg[:len(msg)-1], "padded": append(bytes.Clone(msg), 0), "made outside of a TPM": stranger,
		"another attestation": attest(tpm2.TPMSTAttestTime, tpm2.NewTPMUAttest(tpm2.TPMSTAttestTime, &tpm2.TPMSTimeAttestInfo{})),
	} {
		if _, err := checker.Parse(b); reason(err) != "malformed" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// published are the quotes of the vectors, none where they are not there.
func published(t testing.TB) []signed {
	t.Helper()
	if _, err := os.Stat("../../../../shared/vectors/tpm"); err != nil && os.Getenv("CI") != "true" {
		return nil
	}
	read := func(dir, name string) []byte {
		b, err := os.ReadFile(filepath.Join(vectors.Dir(t, dir), name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	e, err := tpm.Parse(read("tpm", "tpm_evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKIXPublicKey(e.AKPublic)
	if err != nil {
		t.Fatal(err)
	}
	s := signed{name: "tpm", key: key, sig: e.Quote.Signature, msg: e.Quote.Message}
	for _, p := range e.Quote.PCRs {
		s.pcrs = append(s.pcrs, p)
	}
	out := []signed{s}
	for _, v := range []struct{ tee, name string }{{azure.SNP, "evidence-v2.json"}, {azure.SNP, "evidence-genoa.json"}, {azure.TDX, "az-tdx-evidence-v1.json"}} {
		a, err := azure.Parse(v.tee, json.RawMessage(read("azure", v.name)))
		if err != nil {
			t.Fatal(err)
		}
		h, err := azure.ParseHCL(a.HCLReport)
		if err != nil {
			t.Fatal(err)
		}
		rc, err := azure.ParseRuntimeClaims(h.RuntimeClaims)
		if err != nil {
			t.Fatal(err)
		}
		s := signed{name: v.name, key: rc.AK, msg: a.Quote.Message, pcrs: a.Quote.PCRs}
		s.sig = tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA,
			&tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: a.Quote.Signature}})})
		out = append(out, s)
	}
	return out
}

// Quotes that TPMs of other people made.
func TestPublishedQuotes(t *testing.T) {
	vectors.Dir(t, "tpm")
	for _, s := range published(t) {
		if err := checker.VerifySignature(s.key, s.sig, s.msg); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		q, err := checker.Parse(s.msg)
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
			continue
		}
		if v, err := Values(&checker, q, s.pcrs, []int{0, 4, 8, 11}); err != nil || len(v) != 24 {
			t.Errorf("%s: %d values, %v", s.name, len(v), err)
		}
	}
}

// FuzzQuote bends message, signature and values of genuine quotes: no crash,
// nothing but denials, no other message under a known key, and no value that the
// quote's digest does not cover.
func FuzzQuote(f *testing.F) {
	known := append(schemes(f), published(f)...)
	for i, s := range known {
		var values []byte
		for _, p := range s.pcrs {
			values = append(values, p[:]...)
		}
		f.Add(uint8(i), s.msg, s.sig, values)
	}
	f.Add(uint8(0), message(tpm2.TPMAlgSHA1, 0), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, n uint8, msg, sig, values []byte) {
		s := known[int(n)%len(known)]
		switch err := checker.VerifySignature(s.key, sig, msg); {
		case err != nil && reason(err) != "signature":
			t.Errorf("not a denial: %v", err)
		case err == nil && !bytes.Equal(msg, s.msg):
			t.Errorf("a forged message: %x", msg)
		}
		q, err := checker.Parse(msg)
		if err != nil {
			if reason(err) != "malformed" {
				t.Errorf("not a denial: %v", err)
			}
			return
		}
		var listed [][32]byte
		for len(values) >= 32 && len(listed) < 32 {
			listed, values = append(listed, [32]byte(values)), values[32:]
		}
		got, err := Values(&checker, q, listed, nil)
		if err != nil {
			if r := reason(err); r != "selection" && r != "digest" {
				t.Errorf("not a denial: %v", err)
			}
			return
		}
		for pcr := range got {
			bent := append([][32]byte(nil), listed...)
			bent[pcr][7] ^= 1
			if _, err := Values(&checker, q, bent, nil); reason(err) != "digest" {
				t.Errorf("PCR %d bent: %v", pcr, err)
			}
		}
	})
}
