package svid

import (
	"slices"
	"strings"
	"testing"
)

const good = `{"spiffe_id":"spiffe://a/b","x509_svid":"c","bundle":"d","expires":"2026-01-01T00:00:00Z"}`

func TestDecodeX509(t *testing.T) {
	if x, err := DecodeX509([]byte(good)); err != nil || x.ID != "spiffe://a/b" {
		t.Errorf("%+v %v", x, err)
	}
	for _, bad := range []string{"", "{}", strings.Replace(good, `"c"`, `""`, 1), strings.Replace(good, `"bundle"`, `"x509_svid_key":"k","bundle"`, 1), strings.Repeat(" ", MaxDocument) + good} {
		if _, err := DecodeX509([]byte(bad)); err == nil {
			t.Errorf("%.60q is taken", bad)
		}
	}
}

func TestParseAudiences(t *testing.T) {
	a, err := ParseAudiences("audience=https%3A%2F%2Fdb.example.org&audience=b")
	if err != nil || !slices.Equal(a, []string{"https://db.example.org", "b"}) {
		t.Errorf("%q %v", a, err)
	}
	for _, bad := range []string{"", "audience=", "audience=a&audience=", "audience=a&x=1", "Audience=a", "audience=%zz", strings.Repeat("audience=a&", MaxAudiences) + "audience=a"} {
		if a, err := ParseAudiences(bad); err == nil {
			t.Errorf("%q: %q", bad, a)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"a", "0", "web-1", "a-", strings.Repeat("a", 63)} {
		if err := CheckName(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "-", "Web", "a.b", "a/b", "ü", "a b", "a\n", strings.Repeat("a", 64)} {
		if CheckName(bad) == nil {
			t.Errorf("%q is a name", bad)
		}
	}
}

func FuzzDecodeX509(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := DecodeX509(b); err == nil && (x.Key != "" || x.Chain == "") {
			t.Fatal("incomplete, or with a key")
		}
	})
}
