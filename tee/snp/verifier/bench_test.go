package verifier

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"syscall"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/snp"
	"github.com/cofferproject/coffer/tee/verify"
)

// The yardstick: one ECDSA P-384 verification of the same report, by the
// standard library.
func BenchmarkBareP384(b *testing.B) {
	e, l := benchParts(b)
	raw := e.Report.Bytes()
	r, s := littleEndian(e.Report.R), littleEndian(e.Report.S)
	b.ReportAllocs()
	defer cpu(b)()
	for b.Loop() {
		sum := sha512.Sum384(raw[:snp.SignedSize])
		if !ecdsa.Verify(l.key, sum[:], r, s) {
			b.Fatal("does not verify")
		}
	}
}

// cpu reports processor time, which a busy machine disturbs least.
func cpu(b *testing.B) func() {
	b.Helper()
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start := used()
	return func() { b.ReportMetric(float64(used()-start)/float64(b.N), "cpu-ns/op") }
}

func benchParts(tb testing.TB) (*snp.Evidence, *leaf) {
	tb.Helper()
	e, err := snp.Parse(read(tb, "as", "evidence.json"))
	if err != nil {
		tb.Fatal(err)
	}
	l, err := parseLeaf(e.Certs[0].Data, false)
	if err != nil {
		tb.Fatal(err)
	}
	return e, l
}

func benchVerifier(tb testing.TB) (verify.Verifier, *verify.Input) {
	tb.Helper()
	v, err := New(verify.Config{Kind: verify.Production, InsecureSkipRevocation: true})
	if err != nil {
		tb.Fatal(err)
	}
	return v, &verify.Input{Evidence: read(tb, "as", "evidence.json"), Now: vectorTime, InsecureSkipReportData: true}
}

// Evidence to claims with the chip's chain in the cache: one P-384 signature.
func BenchmarkVerifyCachedChain(b *testing.B) {
	v, in := benchVerifier(b)
	b.ReportAllocs()
	defer cpu(b)()
	for b.Loop() {
		if _, err := v.Verify(in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyCachedChainParallel(b *testing.B) {
	v, in := benchVerifier(b)
	b.ReportAllocs()
	defer cpu(b)()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := v.Verify(in); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkBareP384Parallel(b *testing.B) {
	e, l := benchParts(b)
	raw := e.Report.Bytes()
	r, s := littleEndian(e.Report.R), littleEndian(e.Report.S)
	defer cpu(b)()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			sum := sha512.Sum384(raw[:snp.SignedSize])
			if !ecdsa.Verify(l.key, sum[:], r, s) {
				b.Error("does not verify")
				return
			}
		}
	})
}

// A chip that was never seen: certificate, three RSA-4096 signatures, report.
func BenchmarkVerifyNewChip(b *testing.B) {
	_, in := benchVerifier(b)
	b.ReportAllocs()
	defer cpu(b)()
	for b.Loop() {
		v, err := New(verify.Config{Kind: verify.Production, InsecureSkipRevocation: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := v.Verify(in); err != nil {
			b.Fatal(err)
		}
	}
}

// The budget of a verification with a cached chain.
func TestAllocations(t *testing.T) {
	v, in := benchVerifier(t)
	if _, err := v.Verify(in); err != nil {
		t.Fatal(err)
	}
	r := testing.Benchmark(func(b *testing.B) {
		for range b.N {
			if _, err := v.Verify(in); err != nil {
				b.Fatal(err)
			}
		}
	})
	if n := r.AllocedBytesPerOp(); n > 60<<10 {
		t.Errorf("%d bytes allocated for each verification, at most 60 KB", n)
	}
}
