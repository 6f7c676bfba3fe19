package snp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var plainOctet = regexp.MustCompile(`^(0|[1-9][0-9]{0,2})$`)

// byJSON reads an array of bytes with encoding/json.
func byJSON(b []byte, limit int) ([]byte, bool) {
	var items []json.RawMessage
	if json.Unmarshal(b, &items) != nil || items == nil || len(items) > limit {
		return nil, false
	}
	out := []byte{}
	for _, x := range items {
		var n uint8
		if !plainOctet.Match(x) || json.Unmarshal(x, &n) != nil {
			return nil, false
		}
		out = append(out, n)
	}
	return out, true
}

func checkOctets(t *testing.T, b []byte) {
	t.Helper()
	const limit = 20
	want, ok := byJSON(b, limit)
	s := &scanner{b: b}
	got, err := s.octets([]byte{7}, limit)
	if err == nil {
		err = s.end()
	}
	if ok != (err == nil) || ok && !bytes.Equal(got, append([]byte{7}, want...)) {
		t.Errorf("%q: %v, %v; encoding/json: %v, %t", b, got, err, want, ok)
	}
}

func arrays() []string {
	out := []string{
		``, `[`, `]`, `[]`, `[ ]`, `[,]`, `[1`, `[1,`, `[1,]`, `[,1]`, `[1 2]`, `[1,2`, "[ 1 ,\t2\r\n,3 ]", `[-1]`, `[1.0]`, `[1e1]`, `["1"]`, `[[1]]`, `[null]`, `[1]x`, `[1,2,/,3]`, `[1,2,:,3]`, `[1:,2]`,
		`[` + strings.Repeat("1,", 19) + `1]`, `[` + strings.Repeat("1,", 20) + `1]`, `[` + strings.Repeat("1,", 20) + `]`, `[` + strings.Repeat("255,", 19) + `255]`,
	}
	for n := range 1100 {
		for _, f := range []string{"[%d]", "[%d,0]", "[1,%d,2]", "[1, %d ,2]", "[0%d,2]", "[%d"} {
			out = append(out, fmt.Sprintf(f, n))
		}
	}
	return out
}

func TestOctets(t *testing.T) {
	all := arrays()
	if !slices.ContainsFunc(all, func(s string) bool { _, ok := byJSON([]byte(s), 20); return ok }) {
		t.Fatal("no array is one")
	}
	for _, s := range all {
		checkOctets(t, []byte(s))
	}
}

func FuzzOctets(f *testing.F) {
	for _, s := range arrays()[:60] {
		f.Add([]byte(s))
	}
	f.Fuzz(checkOctets)
}
