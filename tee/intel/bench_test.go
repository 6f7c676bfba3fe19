package intel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"testing"

	"github.com/cofferproject/coffer/tee/intel/inteltest"
	"github.com/cofferproject/coffer/tee/intel/quote"
)

// BenchmarkVerifyQuote is a TDX quote v5 of a machine with Intel's collateral;
// the bound is a share of BenchmarkP384.
func BenchmarkVerifyQuote(b *testing.B) {
	raw, day := inteltest.QuoteV5(), inteltest.DayV5
	v := outsideVerifier(b, true)
	verifyOne := func(b *testing.B, v *Verifier) {
		if _, err := v.VerifyQuote(raw, quote.TDX, day); err != nil {
			b.Error(err)
		}
	}
	b.Run("parsed collateral", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			verifyOne(b, v)
		}
	})
	b.Run("parsed collateral, all cores", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				verifyOne(b, v)
			}
		})
	})
	b.Run("nothing cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			verifyOne(b, outsideVerifier(b, true))
		}
	})
}

// BenchmarkP384 is the bare verification that the bounds refer to.
func BenchmarkP384(b *testing.B) {
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	h := sha512.Sum384([]byte("message"))
	sig, err := ecdsa.SignASN1(rand.Reader, k, h[:])
	if err != nil {
		b.Fatal(err)
	}
	one := func() {
		if !ecdsa.VerifyASN1(&k.PublicKey, h[:], sig) {
			b.Error("does not verify")
		}
	}
	b.Run("one core", func(b *testing.B) {
		for b.Loop() {
			one()
		}
	})
	b.Run("all cores", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				one()
			}
		})
	})
}
