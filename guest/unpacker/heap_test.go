package unpacker

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/cofferproject/coffer/image/digest"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/ocicrypt"
	"github.com/cofferproject/coffer/image/reference"
	"github.com/cofferproject/coffer/image/registry"
	"github.com/cofferproject/coffer/image/unpack"
)

// bigLayer writes an encrypted layer of size bytes of tar to a file, so that it
// does not count as heap, and gives what a manifest says of it.
func bigLayer(t testing.TB, size int64, comp string) (file string, d manifest.Descriptor, diffID digest.Digest) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "layer-")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := bufio.NewWriterSize(f, 1<<20)
	sym, nonce := bytes.Repeat([]byte{3}, 32), bytes.Repeat([]byte{5}, 16)
	block, err := aes.NewCipher(sym)
	if err != nil {
		t.Fatal(err)
	}
	mac, blob, plain := hmac.New(sha256.New, sym), sha256.New(), sha256.New()
	enc := cipher.StreamWriter{S: cipher.NewCTR(block, nonce), W: io.MultiWriter(mac, blob, out)}
	var z io.WriteCloser
	switch comp {
	case "gzip":
		z, err = gzip.NewWriterLevel(enc, gzip.BestSpeed)
	case "zstd":
		z, err = zstd.NewWriter(enc, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(unpack.MaxWindow), zstd.WithEncoderConcurrency(1))
	}
	if err != nil {
		t.Fatal(err)
	}
	writeTar(t, io.MultiWriter(z, plain), size)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	priv, _ := json.Marshal(ocicrypt.PrivateOptions{SymKey: sym, Digest: digest.FromBytes(nil), Opts: map[string][]byte{"nonce": nonce}})
	pub, _ := json.Marshal(ocicrypt.PublicOptions{Cipher: ocicrypt.Cipher, HMAC: mac.Sum(nil)})
	packet, err := ocicrypt.Seal("kbs:///default/key/1", kek, priv)
	if err != nil {
		t.Fatal(err)
	}
	return f.Name(), manifest.Descriptor{
		MediaType: "application/vnd.oci.image.layer.v1.tar+" + comp + "+encrypted", Digest: digest.FromSHA256(blob), Size: st.Size(),
		Annotations: map[string]string{ocicrypt.AnnotationKeys: base64.StdEncoding.EncodeToString(packet), ocicrypt.AnnotationPubOpts: base64.StdEncoding.EncodeToString(pub)},
	}, digest.FromSHA256(plain)
}

// writeTar writes files of 1 MiB, half of which compresses.
func writeTar(t testing.TB, out io.Writer, size int64) {
	t.Helper()
	w := tar.NewWriter(out)
	rnd := rand.NewChaCha8([32]byte{1})
	b := make([]byte, 1<<20)
	for n := int64(0); n < size; n += int64(len(b)) {
		_, _ = rnd.Read(b[:len(b)/2])
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/f%d", n>>26, n>>20), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(b))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// The whole of a parser's work at once: registry client, decryption, hashes,
// decompression, tar.
func TestParserHeap(t *testing.T) {
	if testing.Short() {
		t.Skip("makes and unpacks 128 MiB twice")
	}
	for _, c := range []struct {
		comp  string
		limit float64 // MiB
	}{{"gzip", 32}, {"zstd", 24}} {
		t.Run(c.comp, func(t *testing.T) {
			file, d, diffID := bigLayer(t, 128<<20, c.comp)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }))
			defer srv.Close()
			host := strings.TrimPrefix(srv.URL, "http://")
			ref, err := reference.Parse(host + "/a")
			if err != nil {
				t.Fatal(err)
			}
			ours, theirs, err := socketpair()
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			p := &parser{control: mustConn(t, theirs)}
			defer p.control.Close()
			go func() { _, _ = io.Copy(io.Discard, ours) }()
			null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			var asked atomic.Int64
			key, err := keyHolder(t, &asked)(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer key.Close()
			j := &job{Op: opLayer, Ref: ref, What: "layer 1 of 1", Layer: &d, DiffID: string(diffID), Manifest: []byte("{}"),
				Config: registry.Config{Conf: registry.Conf{Registries: []registry.Registry{{Location: host, Insecure: true}}}}}
			defer debug.SetGCPercent(debug.SetGCPercent(100)) // the job sets it
			peak := peakHeap(func() { _, err = p.do(t.Context(), j, fileList{null, key}) })
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: encrypted layer of 128 MiB, peak heap %.1f MiB", c.comp, peak)
			if peak > c.limit {
				t.Errorf("peak heap %.1f MiB, expected at most %.0f", peak, c.limit)
			}
		})
	}
}

// peakHeap gives the most heap in use while fn runs, above what was before, MiB.
func peakHeap(fn func()) float64 {
	var m runtime.MemStats
	debug.FreeOSMemory()
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
	return float64(top-min(top, base)) / (1 << 20)
}

// benchmarkLarge pulls one large encrypted layer with real processes and reports
// the parser's highest resident set.
func benchmarkLarge(b *testing.B, size int64, comp string) {
	file, d, diffID := bigLayer(b, size, comp)
	cfg, _ := json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": []any{diffID}}})
	cfgDesc := manifest.Descriptor{MediaType: manifest.TypeOCIConfig, Digest: digest.FromBytes(cfg), Size: int64(len(cfg))}
	m, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifest.TypeOCIManifest, "config": cfgDesc, "layers": []any{d}})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := filepath.Base(r.URL.Path); {
		case path == string(d.Digest):
			http.ServeFile(w, r, file)
		case path == string(cfgDesc.Digest):
			_, _ = w.Write(cfg)
		default:
			w.Header().Set("Content-Type", manifest.TypeOCIManifest)
			_, _ = w.Write(m)
		}
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	ref, err := reference.Parse(host + "/a@" + string(digest.FromBytes(m)))
	if err != nil {
		b.Fatal(err)
	}
	var asked atomic.Int64
	var rss float64
	b.SetBytes(size)
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		_ = os.Chmod(filepath.Dir(dir), 0o711)
		s := newService(b, Options{Root: filepath.Join(dir, "store")})
		req := PullRequest{Image: ref, ManifestDigest: ref.Digest, KeySocket: keyHolder(b, &asked), Progress: func(Progress) { rss = max(rss, parserRSS()) },
			Config: registry.Config{Conf: registry.Conf{Registries: []registry.Registry{{Location: host, Insecure: true}}}}}
		b.StartTimer()
		if _, err := s.Pull(b.Context(), req); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = os.RemoveAll(dir)
		b.StartTimer()
	}
	b.ReportMetric(rss, "parser-RSS-MiB")
}

// parserRSS gives the highest resident set of a parser that runs now, MiB.
func parserRSS() float64 {
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var top float64
	for _, f := range list {
		if b, _ := os.ReadFile(f); !strings.HasPrefix(string(b), ParserName) {
			continue
		}
		b, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "status"))
		for l := range strings.Lines(string(b)) {
			var kib float64
			if n, _ := fmt.Sscanf(l, "VmHWM: %f kB", &kib); n == 1 {
				top = max(top, kib/1024)
			}
		}
	}
	return top
}

func BenchmarkPullGzip128MiB(b *testing.B) { benchmarkLarge(b, 128<<20, "gzip") }
func BenchmarkPullZstd128MiB(b *testing.B) { benchmarkLarge(b, 128<<20, "zstd") }
func BenchmarkPullGzip1GiB(b *testing.B)   { benchmarkLarge(b, 1<<30, "gzip") }
func BenchmarkPullZstd1GiB(b *testing.B)   { benchmarkLarge(b, 1<<30, "zstd") }
