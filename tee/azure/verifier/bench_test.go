package verifier

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"testing"

	"github.com/cofferproject/coffer/tee/verify"
)

// BenchmarkBareP384 is the measure of BenchmarkSNP: the one signature of it that
// costs most.
func BenchmarkBareP384(b *testing.B) {
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	sum := sha512.Sum384([]byte("report"))
	sig, err := ecdsa.SignASN1(rand.Reader, k, sum[:])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !ecdsa.VerifyASN1(&k.PublicKey, sum[:], sig) {
			b.Fatal("does not verify")
		}
	}
}

// BenchmarkSNP judges evidence of a machine with a cached certificate chain: a
// P-384 signature, an RSA-2048 signature, the documents.
func BenchmarkSNP(b *testing.B) {
	v := newSNP(b, recorded, Options{})
	in := verify.Input{Evidence: vector(b, "evidence-v2.json"), InsecureSkipReportData: true, Now: day}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(&in); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSNPParallel shows how it scales with cores.
func BenchmarkSNPParallel(b *testing.B) {
	v := newSNP(b, recorded, Options{})
	e := vector(b, "evidence-v2.json")
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			in := verify.Input{Evidence: e, InsecureSkipReportData: true, Now: day}
			if _, err := v.Verify(&in); err != nil {
				b.Fatal(err)
			}
		}
	})
}
