package volume

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/podpolicy"
)

// storeOf makes a store's file and its two places.
func storeOf(t *testing.T) (*os.File, [2]*place) {
	t.Helper()
	f := disk(t, podpolicy.MinDisk, nil)
	var h header
	k, err := deriveKeys(secretOf(1), h.salt, "data")
	if err != nil {
		t.Fatal(err)
	}
	return f, places(f, k, podpolicy.MinDisk)
}

func content(b []byte) func(io.Writer) error {
	return func(w io.Writer) error { _, err := w.Write(b); return err }
}

func read(p *place) ([]byte, error) {
	h, err := p.head()
	if err != nil || h == nil {
		return nil, errors.Join(err, errSnapshot)
	}
	var got []byte
	err = p.load(h, func(r io.Reader) (err error) { got, err = io.ReadAll(r); return err })
	return got, err
}

func TestSnapshot(t *testing.T) {
	_, ps := storeOf(t)
	if _, _, _, err := latest(ps); !errors.Is(err, errSnapshot) {
		t.Fatalf("an empty store: %v", err)
	}
	for i, n := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 5*chunkSize + 7} {
		p := ps[i%2]
		want := bytes.Repeat([]byte{byte(n)}, n)
		if err := p.save(uint64(i+1), content(want)); err != nil {
			t.Fatal(err)
		}
		got, err := read(p)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d, %v", n, len(got), err)
		}
		if from, other, h, err := latest(ps); err != nil || from != p || other != ps[1-i%2] || h.sequence != uint64(i+1) {
			t.Errorf("snapshot %d: %+v, %v", i+1, h, err)
		}
	}
	if err := ps[0].save(99, content(make([]byte, ps[0].room()+1))); !errors.Is(err, errRoom) {
		t.Errorf("more than there is room for: %v", err)
	}
	if from, _, h, err := latest(ps); err != nil || from != ps[1] || h.sequence != 6 {
		t.Errorf("after a snapshot that failed: %+v, %v", h, err)
	}
}

// No byte of a snapshot can be changed, moved or left out.
func TestSnapshotsAreAuthentic(t *testing.T) {
	const size = 2*chunkSize + 100
	plain := bytes.Repeat([]byte("plaintext"), size/9+1)[:size]
	for name, change := range map[string]func(t *testing.T, f *os.File, p *place){
		"a head": func(_ *testing.T, f *os.File, p *place) { flipAt(t, f, p.at+atSequence) },
		"length": func(_ *testing.T, f *os.File, p *place) { flipAt(t, f, p.at+atLength) },
		"salt":   func(_ *testing.T, f *os.File, p *place) { flipAt(t, f, p.at+atPlaceSalt) },
		"MAC":    func(_ *testing.T, f *os.File, p *place) { flipAt(t, f, p.at+atPlaceMAC) },
		"chunk":  func(_ *testing.T, f *os.File, p *place) { flipAt(t, f, p.at+placeHead+chunkSize+chunkTag+5) },
		"tag":    func(_ *testing.T, f *os.File, p *place) { flipAt(t, f, p.at+placeHead+2*(chunkSize+chunkTag)-1) },
		"two chunks in turn": func(t *testing.T, f *os.File, p *place) {
			a, b := make([]byte, chunkSize+chunkTag), make([]byte, chunkSize+chunkTag)
			at := p.at + placeHead
			for _, err := range []error{readAt(f, a, at), readAt(f, b, at+int64(len(a))), writeAt(f, b, at), writeAt(f, a, at+int64(len(a)))} {
				if err != nil {
					t.Fatal(err)
				}
			}
		},
		"the other place's": func(t *testing.T, f *os.File, p *place) {
			b := make([]byte, p.size)
			for _, err := range []error{readAt(f, b, p.at), writeAt(f, b, p.at+p.size), writeAt(f, make([]byte, placeHead), p.at)} {
				if err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, ps := storeOf(t)
			if err := ps[0].save(1, content(plain)); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, podpolicy.MinDisk)
			if err := readAt(f, b, 0); err != nil || bytes.Contains(b, []byte("plaintext")) {
				t.Fatalf("the store shows its content: %v", err)
			}
			change(t, f, ps[0])
			for _, p := range ps {
				if got, err := read(p); err == nil {
					t.Errorf("%d bytes were read", len(got))
				}
			}
		})
	}
}

func readAt(f *os.File, b []byte, at int64) error  { _, err := f.ReadAt(b, at); return err }
func writeAt(f *os.File, b []byte, at int64) error { _, err := f.WriteAt(b, at); return err }

func flipAt(t *testing.T, f *os.File, at int64) {
	t.Helper()
	b := make([]byte, 1)
	if err := readAt(f, b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if err := writeAt(f, b, at); err != nil {
		t.Fatal(err)
	}
}

// torn is a file whose writes stop: a killed guest, or a full disk.
type torn struct {
	*os.File
	left int
}

func (f *torn) WriteAt(b []byte, at int64) (int, error) {
	if f.left--; f.left < 0 {
		return 0, syscall.ENOSPC
	}
	return f.File.WriteAt(b, at)
}

// However far the writing of a snapshot came, the one before is there.
func TestTornSnapshot(t *testing.T) {
	for n := range 5 {
		f, ps := storeOf(t)
		if err := ps[0].save(1, content([]byte("before"))); err != nil {
			t.Fatal(err)
		}
		ps[1].f = &torn{f, n}
		err := ps[1].save(2, content(make([]byte, 3*chunkSize)))
		from, _, h, lerr := latest(ps)
		if lerr != nil {
			t.Fatal(lerr)
		}
		if n < 4 {
			got, rerr := read(from)
			if !errors.Is(err, syscall.ENOSPC) || h.sequence != 1 || string(got) != "before" || rerr != nil {
				t.Errorf("after %d writes: %v; %q, %v", n, err, got, rerr)
			}
		} else if err != nil || h.sequence != 2 {
			t.Errorf("a whole snapshot: %v, %+v", err, h)
		}
	}
}

// A folder is the same after a journey.
func TestArchive(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	at := time.Unix(1700000000, 123456000)
	for _, step := range []func() error{
		func() error { return os.MkdirAll(filepath.Join(from, "a/b"), 0o755) },
		func() error { return os.WriteFile(filepath.Join(from, "a/file"), []byte("content"), 0o600) },
		func() error { return os.WriteFile(filepath.Join(from, "empty"), nil, 0o644) },
		func() error { return os.Link(filepath.Join(from, "a/file"), filepath.Join(from, "a/b/same")) },
		func() error { return os.Symlink("/etc/passwd", filepath.Join(from, "out")) },
		func() error { return syscall.Mkfifo(filepath.Join(from, "fifo"), 0o600) },
		func() error { return os.Chmod(filepath.Join(from, "a/file"), 0o4751|os.ModeSetuid) },
		func() error { return os.Chmod(filepath.Join(from, "a"), os.ModeSticky|os.ModeSetgid|0o511) },
		func() error { return os.Chtimes(filepath.Join(from, "a/file"), at, at) },
		func() error { return os.Chtimes(filepath.Join(from, "a"), at, at) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := pack(&b, from); err != nil {
		t.Fatal(err)
	}
	if err := unpack(&b, to); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "a/b", "a/file", "empty"} {
		x, err := os.Stat(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.Stat(filepath.Join(to, name))
		if err != nil || x.Mode() != y.Mode() || x.Size() != y.Size() && !x.IsDir() || !x.ModTime().Equal(y.ModTime()) {
			t.Errorf("%s: %v and %v, %v", name, x, y, err)
		}
	}
	one, err1 := os.Stat(filepath.Join(to, "a/file"))
	two, err2 := os.Stat(filepath.Join(to, "a/b/same"))
	if err1 != nil || err2 != nil || !os.SameFile(one, two) {
		t.Errorf("a hard link became a file: %v, %v", err1, err2)
	}
	if link, err := os.Readlink(filepath.Join(to, "out")); err != nil || link != "/etc/passwd" {
		t.Errorf("symbolic link: %q, %v", link, err)
	}
	if _, err := os.Lstat(filepath.Join(to, "fifo")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a pipe: %v", err)
	}
}

// Zeros take no room, in the store and again in memory.
func TestHoles(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	f, err := os.Create(filepath.Join(from, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 3*holeSize + 17, 100 << 20} {
		if err := writeAt(f, []byte("here"), at); err != nil {
			t.Fatal(err)
		}
	}
	for name, size := range map[string]int64{"sparse": 1 << 30, "hole": 1<<30 + 1} {
		if err := os.WriteFile(filepath.Join(from, name+"2"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(from, name+"2"), size); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Truncate(1<<30), f.Close(), os.Mkdir(filepath.Join(from, "a\xffb"), 0o755)); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := pack(&b, from); err != nil || b.Len() > 1<<20 {
		t.Fatalf("%d bytes, %v", b.Len(), err)
	}
	if err := unpack(&b, to); err != nil {
		t.Fatal(err)
	}
	g, err := os.Open(filepath.Join(to, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for at, want := range map[int64]string{0: "here", 3*holeSize + 17: "here", 100 << 20: "here", 5: "\x00\x00\x00\x00", 1<<30 - 4: "\x00\x00\x00\x00"} {
		got := make([]byte, 4)
		if err := readAt(g, got, at); err != nil || string(got) != want {
			t.Errorf("at %d: %q, %v", at, got, err)
		}
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(g.Fd()), &st); err != nil || st.Size != 1<<30 || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes in %d blocks, %v", st.Size, st.Blocks, err)
	}
	for name, size := range map[string]int64{"hole2": 1<<30 + 1, "sparse2": 1 << 30} {
		if fi, err := os.Stat(filepath.Join(to, name)); err != nil || fi.Size() != size {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	if _, err := os.Stat(filepath.Join(to, "a\xffb")); err != nil {
		t.Errorf("a name that is no text: %v", err)
	}
}

// Parts are in order, within the file, and add up.
func TestParts(t *testing.T) {
	dots := make([]byte, (2*maxParts+9)*holeSize+100)
	for i := 0; i < len(dots); i += 2 * holeSize {
		dots[i] = 1
	}
	parts, content, err := partsOf(bytes.NewReader(dots), int64(len(dots)))
	if err != nil || len(parts) != maxParts {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	again, err := parseParts(formatParts(parts), int64(len(dots)), content)
	if err != nil || len(again) != len(parts) {
		t.Fatalf("%d parts, %v", len(again), err)
	}
	rest := bytes.Clone(dots)
	for _, x := range parts {
		clear(rest[x.offset : x.offset+x.length])
	}
	if !bytes.Equal(rest, make([]byte, len(rest))) {
		t.Error("a part was left out")
	}
	for _, s := range []string{"0", "0+", "+1", "0+0", "0+11", "5+6", "4+2,5+1", "-1+2", "0+1,1", "0+5"} {
		if got, err := parseParts(s, 10, 4); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
	if _, err := parseParts("", 10, 4); err == nil {
		t.Error("content without parts")
	}
}

// The volume's key and the TEE's become one secret, of which neither is enough.
func TestSecret(t *testing.T) {
	o := &Options{
		Key:     func(_ context.Context, _ string) ([]byte, error) { return secretOf('k'), nil },
		Sealing: func(policy string) ([]byte, error) { return bytes.Repeat([]byte(policy[2:3]), sealingKeySize), nil },
	}
	for want, v := range map[string]podpolicy.Volume{
		strings.Repeat("k", 32):                           {Key: "kbs:///a/b/c"},
		strings.Repeat("e", 32):                           {Sealing: podpolicy.SealingMREnclave},
		strings.Repeat("s", 32) + strings.Repeat("k", 32): {Sealing: podpolicy.SealingMRSigner, Key: "kbs:///a/b/c"},
	} {
		if got, err := o.secret(t.Context(), &v); err != nil || string(got) != want {
			t.Errorf("%+v: %q, %v", v, got, err)
		}
	}
	o.Sealing = nil
	if _, err := o.secret(t.Context(), &podpolicy.Volume{Sealing: podpolicy.SealingMREnclave}); err == nil || !strings.Contains(err.Error(), string(KeyUnsuitable)) {
		t.Errorf("a TEE without sealing keys: %v", err)
	}
	o.Key = func(_ context.Context, _ string) ([]byte, error) { return make([]byte, MinKey-1), nil }
	if _, err := o.secret(t.Context(), &podpolicy.Volume{Key: "kbs:///a/b/c"}); err == nil || !strings.Contains(err.Error(), string(KeyUnsuitable)) {
		t.Errorf("a short key: %v", err)
	}
}

// FuzzStore: a store that nobody with the key has written holds nothing.
func FuzzStore(f *testing.F) {
	f.Add(bytes.Repeat([]byte(snapshotMagic), placeHead/len(snapshotMagic)))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := deriveKeys(secretOf(1), [saltSize]byte{}, "data")
		if err != nil {
			t.Fatal(err)
		}
		mem := memory(make([]byte, 1<<20))
		copy(mem[HeaderSize:], b)
		if _, _, h, err := latest(places(mem, k, uint64(len(mem)))); !errors.Is(err, errSnapshot) {
			t.Fatalf("%+v, %v", h, err)
		}
	})
}

type memory []byte

func (m memory) ReadAt(b []byte, at int64) (int, error)  { return copy(b, m[at:]), nil }
func (m memory) WriteAt(b []byte, at int64) (int, error) { return copy(m[at:], b), nil }
func (m memory) Sync() error                             { return nil }
