package cpio

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// list reads an archive back, independently of the writer.
func list(t *testing.T, b []byte) []string {
	t.Helper()
	var out []string
	for {
		if len(b) < 110 || string(b[:6]) != "070701" {
			t.Fatalf("no header where one is due, %d bytes left", len(b))
		}
		field := func(i int) int {
			n, err := strconv.ParseUint(string(b[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		nameLen, size := field(11), field(6)
		name := string(b[110 : 110+nameLen-1])
		data := (110 + nameLen + 3) &^ 3
		if name == "TRAILER!!!" {
			if len(bytes.Trim(b[data:], "\x00")) != 0 {
				t.Fatal("data after the trailer")
			}
			return out
		}
		out = append(out, fmt.Sprintf("%d %o %s %q %d:%d mtime=%d", field(0), field(1), name, b[data:data+size], field(9), field(10), field(5)))
		b = b[(data+size+3)&^3:]
	}
}

func TestArchive(t *testing.T) {
	w := New()
	w.Dir("tmp", 0o1777)
	w.CharDev("dev/console", 0o600, 5, 1)
	w.File("etc/coffer/floor", 0o644, []byte("12345"))
	b, err := w.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`1 41777 tmp "" 0:0 mtime=0`,
		`2 40755 dev "" 0:0 mtime=0`,
		`3 20600 dev/console "" 5:1 mtime=0`,
		`4 40755 etc "" 0:0 mtime=0`,
		`5 40755 etc/coffer "" 0:0 mtime=0`,
		`6 100644 etc/coffer/floor "12345" 0:0 mtime=0`,
	}
	if got := list(t, b); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(b)%512 != 0 {
		t.Errorf("%d bytes are no whole blocks", len(b))
	}
}

func TestRefused(t *testing.T) {
	for _, name := range []string{"", "/init", "a/../b", "a//b", "TRAILER!!!", "twice"} {
		w := New()
		w.File("twice", 0o644, nil)
		w.File(name, 0o644, nil)
		if _, err := w.Bytes(); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}
