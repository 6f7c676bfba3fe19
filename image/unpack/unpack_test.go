package unpack

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/layerstream"
	"github.com/cofferproject/coffer/image/manifest"
)

func smallTar(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, data := range map[string]string{"a": "hello", "d/b": strings.Repeat("x", 3000)} {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(1, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zst(t testing.TB, b []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestCompressions(t *testing.T) {
	plain := smallTar(t)
	half := len(plain) / 2
	for name, blob := range map[string][]byte{
		"tar":               plain,
		"gzip":              gz(t, plain),
		"gzip, two members": append(gz(t, plain[:half]), gz(t, plain[half:])...),
		"zstd":              zst(t, plain),
		"zstd, two frames":  append(zst(t, plain[:half]), zst(t, plain[half:])...),
		"zstd, skippable":   append([]byte{0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9}, zst(t, plain)...),
	} {
		st, err := Layer(bytes.NewReader(blob), "layer 0", digest.FromBytes(plain), layerstream.NewEncoder(io.Discard), Limits{})
		if err != nil || st.Entries != 2 || st.Bytes != int64(len(plain)) {
			t.Errorf("%s: %+v %v", name, st, err)
		}
		for _, n := range []int{0, 3, 10, len(blob) / 2, len(blob) - 1} { // cut: never accepted
			if _, err := Layer(bytes.NewReader(blob[:n]), "layer 0", digest.FromBytes(plain), layerstream.NewEncoder(io.Discard), Limits{}); err == nil {
				t.Errorf("%s cut at %d was accepted", name, n)
			}
		}
	}
	sha512 := digest.Digest("sha512:" + strings.Repeat("0", 128))
	_, err := Layer(bytes.NewReader(plain), "layer 3", sha512, layerstream.NewEncoder(io.Discard), Limits{})
	var mm *digest.MismatchError
	if !errors.As(err, &mm) || mm.Expected != sha512 || !strings.Contains(err.Error(), "layer 3") {
		t.Errorf("wrong diffID: %v", err)
	}
	// A source's verdict at its end is never lost behind a tar error.
	bad := errors.New("verdict")
	for _, b := range [][]byte{plain, plain[:700], append([]byte("not a tar at all"), make([]byte, 600)...)} {
		if _, err := Layer(io.MultiReader(bytes.NewReader(b), errReader{bad}), "l", digest.FromBytes(plain), layerstream.NewEncoder(io.Discard), Limits{}); !errors.Is(err, bad) {
			t.Errorf("source's error: %v", err)
		}
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

func TestLimits(t *testing.T) {
	plain := smallTar(t)
	for name, c := range map[string]struct {
		blob []byte
		lim  Limits
		want string
	}{
		"entries":   {plain, Limits{MaxEntries: 1}, "more than 1 entries"},
		"bytes":     {plain, Limits{MaxBytes: 2000}, "limit of 2000 bytes"},
		"gzip bomb": {gz(t, append(plain, make([]byte, 64<<20)...)), Limits{MaxBytes: 1 << 20}, "limit of 1048576 bytes"},
		"zstd bomb": {zst(t, append(plain, make([]byte, 64<<20)...)), Limits{MaxBytes: 1 << 20}, "limit of 1048576 bytes"},
	} {
		if _, err := Layer(bytes.NewReader(c.blob), "layer 0", digest.FromBytes(plain), layerstream.NewEncoder(io.Discard), c.lim); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A sparse file declares a size that its archive never holds.
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "huge", Typeflag: tar.TypeReg, Size: 1 << 50, Mode: 0o644, Format: tar.FormatPAX}); err != nil {
		t.Fatal(err)
	}
	if _, err := Layer(&b, "layer 0", digest.FromBytes(nil), layerstream.NewEncoder(io.Discard), Limits{MaxBytes: 1 << 30}); err == nil || !strings.Contains(err.Error(), "declares 1125899906842624 bytes") {
		t.Errorf("declared size: %v", err)
	}
}

func TestZstdWindow(t *testing.T) {
	data := make([]byte, 20<<20)
	copy(data, smallTar(t))
	blob := zst(t, data, zstd.WithWindowSize(16<<20))
	_, err := Layer(bytes.NewReader(blob), "layer 0", digest.FromBytes(data), layerstream.NewEncoder(io.Discard), Limits{})
	var we *WindowError
	if !errors.As(err, &we) || we.Window != 16<<20 {
		t.Errorf("window of 16 MiB: %v", err)
	}
	// In a later frame, and as a frame's content size.
	blob = append(zst(t, smallTar(t)), blob...)
	if _, err = Layer(bytes.NewReader(blob), "layer 0", digest.FromBytes(data), layerstream.NewEncoder(io.Discard), Limits{}); !errors.As(err, &we) || we.Window != 16<<20 {
		t.Errorf("window in a later frame: %v", err)
	}
	single := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0} // single segment, 4 bytes of content size
	single = binary.LittleEndian.AppendUint32(single, 100<<20)
	if _, err = Layer(bytes.NewReader(append(single, 1, 0, 0)), "layer 0", digest.FromBytes(data), layerstream.NewEncoder(io.Discard), Limits{}); !errors.As(err, &we) || we.Window != 100<<20 {
		t.Errorf("single segment: %v", err)
	}
	// Exactly the limit is fine.
	blob = zst(t, data, zstd.WithWindowSize(8<<20))
	if _, err = Layer(bytes.NewReader(blob), "layer 0", digest.FromBytes(data), layerstream.NewEncoder(io.Discard), Limits{}); err != nil {
		t.Errorf("window of 8 MiB: %v", err)
	}
}

// tarStream gives a tar of size bytes in files of fileSize, made as it is read.
// Half of each file compresses, half does not.
func tarStream(size, fileSize int64) io.Reader {
	pr, pw := io.Pipe()
	go func() {
		w := tar.NewWriter(pw)
		rnd := rand.NewChaCha8([32]byte{1})
		block := make([]byte, 64<<10)
		for done := int64(0); done < size; done += fileSize + 512 {
			if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("dir%03d/file-%d", done>>24, done), Typeflag: tar.TypeReg, Mode: 0o644, Size: fileSize}); err != nil {
				pw.CloseWithError(err)
				return
			}
			for left := fileSize; left > 0; {
				_, _ = rnd.Read(block[:len(block)/2])
				b := block[:min(left, int64(len(block)))]
				if _, err := w.Write(b); err != nil {
					pw.CloseWithError(err)
					return
				}
				left -= int64(len(b))
			}
		}
		pw.CloseWithError(w.Close())
	}()
	return pr
}

// spool compresses a generated layer into memory outside of what is measured:
// chunks that the reader drops as it goes would still count as heap, so the test
// subtracts the blob, which stays alive throughout.
func spool(t testing.TB, size int64, comp string) (blob []byte, diffID digest.Digest) {
	t.Helper()
	h := sha256.New()
	var out bytes.Buffer
	var w io.WriteCloser = nopCloser{&out}
	switch comp {
	case "gzip":
		w, _ = gzip.NewWriterLevel(&out, gzip.BestSpeed)
	case "zstd":
		var err error
		if w, err = zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(MaxWindow), zstd.WithEncoderConcurrency(1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.Copy(io.MultiWriter(h, w), tarStream(size, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(out.Bytes()), digest.FromSHA256(h)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// peak runs fn and gives the most heap in use during it above what was in use
// before, sampled every millisecond without stopping the collector.
func peak(fn func()) uint64 {
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	base, top := m.HeapAlloc, uint64(0)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		var m runtime.MemStats
		for !stop.Load() {
			runtime.ReadMemStats(&m)
			top = max(top, m.HeapAlloc)
			time.Sleep(time.Millisecond)
		}
	}()
	fn()
	stop.Store(true)
	<-done
	return top - min(base, top)
}

func TestPeakHeap(t *testing.T) {
	if testing.Short() {
		t.Skip("unpacks 128 MiB several times")
	}
	mib := int64(128)
	if v := os.Getenv("COFFER_LAYER_MIB"); v != "" { // make bench: 1024
		var err error
		if mib, err = strconv.ParseInt(v, 10, 32); err != nil {
			t.Fatal(err)
		}
	}
	one := func(blob []byte, id digest.Digest) {
		if _, err := Layer(bytes.NewReader(blob), "layer", id, layerstream.NewEncoder(io.Discard), Limits{}); err != nil {
			t.Error(err)
		}
	}
	defer debug.SetGCPercent(debug.SetGCPercent(GCPercent(manifest.Gzip)))
	blob, id := spool(t, mib<<20, "gzip")
	got := peak(func() { one(blob, id) })
	t.Logf("gzip: layer of %d MiB, peak heap %d KiB", mib, got>>10)
	if got >= 32<<20 {
		t.Errorf("gzip: peak heap %d MiB, expected less than 32", got>>20)
	}
	debug.SetGCPercent(GCPercent(manifest.Zstd))
	blob, id = spool(t, mib<<20, "zstd")
	first := peak(func() { one(blob, id) })
	t.Logf("zstd: layer of %d MiB, peak heap %.1f MiB", mib, float64(first)/(1<<20))
	if first > 24<<20 {
		t.Errorf("zstd: peak heap %d MiB, expected at most 24", first>>20)
	}
	three := peak(func() {
		done := make(chan struct{})
		for range 3 {
			go func() { one(blob, id); done <- struct{}{} }()
		}
		for range 3 {
			<-done
		}
	})
	t.Logf("zstd: three such layers at once, peak heap %.1f MiB", float64(three)/(1<<20))
	if three > (24+2*18)<<20 {
		t.Errorf("zstd: three layers at once: peak heap %d MiB, expected at most 60", three>>20)
	}
}

func TestManyEntriesHeap(t *testing.T) {
	if testing.Short() {
		t.Skip("unpacks many entries")
	}
	pr, pw := io.Pipe()
	h := sha256.New()
	const n = 300_000
	go func() {
		w := tar.NewWriter(pw)
		for i := range n {
			_ = w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/%d", i/1000, i), Typeflag: tar.TypeReg, Mode: 0o644, Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}})
		}
		pw.CloseWithError(w.Close())
	}()
	defer debug.SetGCPercent(debug.SetGCPercent(GCPercent(manifest.Gzip)))
	var err error
	got := peak(func() {
		_, err = Layer(io.TeeReader(pr, h), "layer", digest.FromBytes(nil), layerstream.NewEncoder(io.Discard), Limits{})
	})
	var mm *digest.MismatchError
	if !errors.As(err, &mm) || mm.Actual != digest.FromSHA256(h) {
		t.Fatal(err)
	}
	t.Logf("%d entries, peak heap %d KiB", n, got>>10)
	if got >= 32<<20 {
		t.Errorf("peak heap %d MiB", got>>20)
	}
}

func FuzzLayer(f *testing.F) {
	plain := smallTar(f)
	f.Add(plain)
	f.Add(gz(f, plain))
	f.Add(zst(f, plain))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		_, err := Layer(bytes.NewReader(b), "l", digest.FromBytes(plain), layerstream.NewEncoder(&out), Limits{MaxEntries: 1000, MaxBytes: 1 << 20})
		d := layerstream.NewDecoder(&out)
		for {
			if _, derr := d.Next(); errors.Is(derr, io.EOF) {
				if err != nil {
					t.Fatalf("failed with %v but finished the stream", err)
				}
				return
			} else if derr != nil {
				if err == nil {
					t.Fatalf("succeeded, but the stream gives %v", derr)
				}
				return
			}
		}
	})
}

func benchmark(b *testing.B, comp string, size int64) {
	blob, id := spool(b, size, comp)
	b.SetBytes(size)
	b.ReportAllocs()
	defer debug.SetGCPercent(debug.SetGCPercent(GCPercent(manifest.Compression(comp))))
	var top uint64
	b.ResetTimer()
	for b.Loop() {
		top = max(top, peak(func() {
			if _, err := Layer(bytes.NewReader(blob), "l", id, layerstream.NewEncoder(io.Discard), Limits{}); err != nil {
				b.Fatal(err)
			}
		}))
	}
	b.ReportMetric(float64(top)/(1<<20), "peak-heap-MiB")
}

func BenchmarkUnpackGzip(b *testing.B) { benchmark(b, "gzip", 64<<20) }
func BenchmarkUnpackZstd(b *testing.B) { benchmark(b, "zstd", 64<<20) }
func BenchmarkUnpackTar(b *testing.B)  { benchmark(b, "tar", 64<<20) }

func BenchmarkUnpackGzip1GiB(b *testing.B) { benchmark(b, "gzip", 1<<30) }
func BenchmarkUnpackZstd1GiB(b *testing.B) { benchmark(b, "zstd", 1<<30) }
