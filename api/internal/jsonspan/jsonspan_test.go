package jsonspan_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/internal/jsonspan"
)

var values = []string{
	`{}`, `[]`, `0`, `-0`, `10.5e-3`, `1E+9`, `""`, `"a\"\\\/\b\f\n\r\t\u00aF"`, `true`, `false`, `null`, `{"a":[1,{"b":null}],"":0}`,
	" { \"a\" :\t1 , \"b\":\n[ ] }", `[0,255,3]`,
	``, `{`, `[`, `01`, `-`, `1.`, `.5`, `1e`, `+1`, `"`, `"\x"`, `"\u12g4"`, "\"\n\"", `[1,]`, `[,1]`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{a:1}`, `nul`, `truE`, `[1 2]`, `{"a":1 "b":2}`,
	`1,2`, `]`, strings.Repeat("[", 64) + strings.Repeat("]", 64),
}

func check(t *testing.T, b []byte) {
	t.Helper()
	i := jsonspan.Blank(b, 0)
	end, ok := jsonspan.End(b, i)
	whole := ok && jsonspan.Blank(b, end) == len(b)
	switch valid := json.Valid(b); {
	case whole && !valid:
		t.Errorf("%q is no JSON, and was taken", b)
	case valid && !whole && strings.Count(string(b), "[")+strings.Count(string(b), "{") <= 64:
		t.Errorf("%q is JSON, and was not taken", b)
	case ok && (end <= i || end > len(b)):
		t.Errorf("%q: a value from %d to %d", b, i, end)
	}
}

func TestEnd(t *testing.T) {
	for _, v := range values {
		check(t, []byte(v))
	}
	for n := range 1100 {
		for _, f := range []string{"[%d,0]", "[1,%d,2]", "[0%d,2]", "[%d", "[%d,", "[%d:,1]", "[%d/,1]", "[%d.5,1]"} {
			check(t, fmt.Appendf(nil, f, n))
		}
	}
	deep := strings.Repeat("[", 100_000)
	if _, ok := jsonspan.End([]byte(deep+strings.Repeat("]", 100_000)), 0); ok {
		t.Error("nesting without a bound")
	}
}

func FuzzEnd(f *testing.F) {
	for _, v := range values {
		f.Add([]byte(v))
	}
	f.Fuzz(check)
}
