package layerstream

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

func sample(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	e := NewEncoder(&buf)
	for _, r := range []*Record{
		{Type: Dir, Mode: 0o755, MTime: -5},
		{Type: Dir, Path: "etc", Mode: 0o1777, UID: 1, GID: 2, Xattrs: []Xattr{{"user.a", []byte("b")}}},
		{Type: File, Path: "etc/x", Mode: 0o4755, Size: 5, MTime: 1 << 33, MTimeNano: 999_999_999, Xattrs: []Xattr{{"security.capability", make([]byte, 20)}, {"user.", nil}}[:1]},
		{Type: HardLink, Path: "etc/y", Link: "etc/x"},
		{Type: Symlink, Path: "etc/z", Link: "../../up"},
		{Type: Char, Path: "dev/null", Major: 1, Minor: 3},
		{Type: FIFO, Path: "p"},
		{Type: Whiteout, Path: "gone"},
		{Type: Opaque, Path: "etc"},
	} {
		if err := e.Put(r); err != nil {
			t.Fatal(err)
		}
		if r.Type == File {
			if _, err := e.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := e.Finish(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func read(b []byte) (recs []*Record, content []byte, err error) {
	d := NewDecoder(bytes.NewReader(b))
	for {
		r, err := d.Next()
		if errors.Is(err, io.EOF) {
			return recs, content, nil
		}
		if err != nil {
			return recs, content, err
		}
		recs = append(recs, r)
		c, err := io.ReadAll(d)
		if err != nil {
			return recs, content, err
		}
		content = append(content, c...)
	}
}

func TestRoundTrip(t *testing.T) {
	b := sample(t)
	recs, content, err := read(b)
	if err != nil || len(recs) != 9 || string(content) != "hello" {
		t.Fatalf("%d %q %v", len(recs), content, err)
	}
	want := &Record{Type: File, Path: "etc/x", Mode: 0o4755, Size: 5, MTime: 1 << 33, MTimeNano: 999_999_999, Xattrs: []Xattr{{"security.capability", make([]byte, 20)}}}
	if !reflect.DeepEqual(recs[2], want) {
		t.Errorf("%+v", recs[2])
	}
	for n := range len(b) { // cut anywhere: never a success
		if _, _, err := read(b[:n]); err == nil {
			t.Fatalf("cut at %d was accepted", n)
		}
	}
	if _, _, err := read(b[:len(b)-1]); !errors.Is(err, ErrCut) {
		t.Errorf("cut: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	deep := strings.Repeat("a/", MaxDepth) + "a"
	for name, r := range map[string]*Record{
		"dotdot":         {Type: File, Path: "a/../b"},
		"absolute":       {Type: File, Path: "/a"},
		"dot":            {Type: File, Path: "./a"},
		"empty":          {Type: File},
		"zero byte":      {Type: File, Path: "a\x00"},
		"trailing slash": {Type: Dir, Path: "a/"},
		"deep":           {Type: File, Path: deep},
		"long name":      {Type: File, Path: strings.Repeat("a", 256)},
		"link out":       {Type: HardLink, Path: "a", Link: "../b"},
		"no target":      {Type: Symlink, Path: "a"},
		"whiteout dev":   {Type: Char, Path: "a"},
		"mode":           {Type: File, Path: "a", Mode: 0o10000},
		"size of dir":    {Type: Dir, Path: "a", Size: 1},
		"overlay xattr":  {Type: Dir, Path: "a", Xattrs: []Xattr{{"trusted.overlay.opaque", []byte("y")}}},
		"user overlay":   {Type: Dir, Path: "a", Xattrs: []Xattr{{"user.overlay.opaque", []byte("y")}}},
		"xattr size":     {Type: Dir, Path: "a", Xattrs: []Xattr{{"user.a", make([]byte, MaxXattrLen)}}},
		"type":           {Type: 77, Path: "a"},
		"ns":             {Type: File, Path: "a", MTimeNano: 1e9},
	} {
		if err := NewEncoder(io.Discard).Put(r); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	e := NewEncoder(io.Discard)
	if err := e.Put(&Record{Type: File, Path: "a", Size: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Write([]byte("abc")); err == nil {
		t.Error("too much content was accepted")
	}
	if err := e.Finish(); err == nil {
		t.Error("missing content was accepted")
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		recs, content, err := read(b)
		if err != nil {
			return
		}
		var out bytes.Buffer // what decodes must encode again
		e := NewEncoder(&out)
		for _, r := range recs {
			if err := e.Put(r); err != nil {
				t.Fatal(err)
			}
			if r.Type == File {
				if _, err := e.Write(content[:r.Size]); err != nil {
					t.Fatal(err)
				}
				content = content[r.Size:]
			}
		}
		if err := e.Finish(); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, out.Bytes()) {
			t.Fatal("decoded and encoded differ")
		}
	})
}
