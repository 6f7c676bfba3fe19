package svid

import (
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

func FuzzDecodeX509(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := DecodeX509(b); err == nil && (x.Key != "" || x.Chain == "") {
			t.Fatal("incomplete, or with a key")
		}
	})
}
