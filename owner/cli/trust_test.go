package cli

import (
	"strings"
	"testing"

	"github.com/cofferproject/coffer/tee/collateral"
)

func TestBundleOfOneDocument(t *testing.T) {
	for _, origin := range []string{"http://maker.example/ek.crl", "https://maker.example/ek.crl"} {
		b, err := bundleOf(origin, []byte("list"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := collateral.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if it, ok := s.Get("https://maker.example/ek.crl"); !ok || string(it.Body) != "list" || it.Fetched.IsZero() {
			t.Errorf("%s: %+v", origin, it)
		}
	}
	for origin, body := range map[string]string{"ldap://maker.example/ek.crl": "list", "maker.example": "list", "https://maker.example/empty": ""} {
		if _, err := bundleOf(origin, []byte(body)); err == nil || !strings.Contains(err.Error(), "collateral") {
			t.Errorf("%s %q: %v", origin, body, err)
		}
	}
}
