package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/store"
)

type pairs [][3]string

func (p pairs) Dump(_ context.Context, visit func(bucket, key string, value []byte) error) error {
	for _, x := range p {
		if err := visit(x[0], x[1], []byte(x[2])); err != nil {
			return err
		}
	}
	return nil
}

func newKEK(t testing.TB) keyring.KEK {
	t.Helper()
	k, err := keyring.CreateFileKEK(filepath.Join(t.TempDir(), "envelope.key"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func write(t testing.TB, p pairs, kek keyring.KEK) []byte {
	t.Helper()
	var b bytes.Buffer
	if n, err := Write(t.Context(), &b, p, kek, time.Now()); err != nil || n != len(p) {
		t.Fatalf("%d, %v", n, err)
	}
	return b.Bytes()
}

func read(ctx context.Context, b []byte, kek keyring.KEK) (pairs, error) {
	r, err := NewReader(ctx, bytes.NewReader(b), kek)
	if err != nil {
		return nil, err
	}
	var p pairs
	for {
		bucket, key, value, err := r.Next()
		if errors.Is(err, io.EOF) {
			return p, nil
		}
		if err != nil {
			return p, err
		}
		p = append(p, [3]string{bucket, key, string(value)})
	}
}

func some(n int) (p pairs) {
	for i := range n {
		p = append(p, [3]string{"bucket", fmt.Sprintf("%05d", i), strings.Repeat("v", i)})
	}
	return p
}

func TestRoundTrip(t *testing.T) {
	kek := newKEK(t)
	exact := pairs{{"b", "k", strings.Repeat("x", chunkSize-2-2-3)}} // one whole chunk
	for name, p := range map[string]pairs{
		"nothing": nil, "one": some(1), "many chunks": some(1000), "large": {{"b", "k", strings.Repeat("x", 5<<20)}, {"c", "", ""}}, "whole chunk": exact,
		"odd names": {{"b\x00\xff", "\n", "\x00"}},
	} {
		b := write(t, p, kek)
		if bytes.Contains(b, []byte("vvvvvvvv")) || bytes.Contains(b, []byte("bucket")) {
			t.Errorf("%s: can be read", name)
		}
		got, err := read(t.Context(), b, kek)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(p) {
			t.Errorf("%s: %d pairs of %d, %v", name, len(got), len(p), err)
		}
	}
}

// TestNothingElseIsABackup changes every byte, cuts at every place, and puts
// chunks together in other ways.
func TestNothingElseIsABackup(t *testing.T) {
	kek := newKEK(t)
	b := write(t, some(3), kek)
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 1
		if got, err := read(t.Context(), c, kek); err == nil {
			t.Fatalf("byte %d changed: %d pairs", i, len(got))
		}
		if got, err := read(t.Context(), b[:i], kek); err == nil {
			t.Fatalf("cut off at %d: %d pairs", i, len(got))
		}
	}
	if _, err := read(t.Context(), append(bytes.Clone(b), 0), kek); err == nil {
		t.Error("extended by a byte")
	}
	if _, err := read(t.Context(), b, newKEK(t)); err == nil {
		t.Error("another envelope key")
	}
	long := write(t, some(1000), kek)
	head := bytes.IndexByte(long[len(magic):], '\n') + len(magic) + 1
	const whole = 4 + chunkSize + 16
	first, second := long[head:head+whole], long[head+whole:head+2*whole]
	join := func(parts ...[]byte) []byte { return append(bytes.Clone(long[:head]), bytes.Join(parts, nil)...) }
	for name, c := range map[string][]byte{
		"cut off after a chunk": join(first), "chunks swapped": join(second, first, long[head+2*whole:]), "a chunk twice": join(first, first, long[head+whole:]),
		"a chunk left out": join(second, long[head+2*whole:]), "another's chunks": append(bytes.Clone(long[:head]), write(t, some(1000), kek)[head:]...),
	} {
		if _, err := read(t.Context(), c, kek); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDumpFails(t *testing.T) {
	bad := errors.New("bad")
	if _, err := Write(t.Context(), io.Discard, failing{bad}, newKEK(t), time.Now()); !errors.Is(err, bad) {
		t.Error(err)
	}
}

type failing struct{ error }

func (f failing) Dump(context.Context, func(string, string, []byte) error) error { return f.error }

var _ store.Dumper = pairs(nil)

// FuzzReader feeds files to the reader, and records to the part of it that comes
// after decryption.
func FuzzReader(f *testing.F) {
	kek := newKEK(f)
	f.Add(write(f, some(3), kek))
	f.Add([]byte(magic + "{}\n"))
	f.Add([]byte("\x06bucket\x01k\x02vv"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := read(t.Context(), b, kek); err == nil && !bytes.HasPrefix(b, []byte(magic)) {
			t.Errorf("%d pairs out of nothing", len(p))
		}
		// As if it had been encrypted: whatever the records say stays bounded.
		r := &Reader{plain: bytes.Clone(b), last: true}
		for {
			bucket, key, value, err := r.Next()
			if err != nil {
				return
			}
			if len(bucket)+len(key)+len(value) > len(b) {
				t.Errorf("a record of %d bytes out of %d", len(bucket)+len(key)+len(value), len(b))
			}
		}
	})
}
