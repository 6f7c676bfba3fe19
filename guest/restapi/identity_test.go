package restapi

import (
	"net/url"
	"testing"

	"github.com/cofferproject/coffer/api/resource"
	"github.com/cofferproject/coffer/api/svid"
)

// What is passed on is read by the key holder as it was meant here.
func FuzzIdentityURI(f *testing.F) {
	f.Add("/coffer/identity/x509/web")
	f.Add("/coffer/identity/jwt/web?audience=https://db&audience=a%26b")
	f.Add("/coffer/identity//x509/..%2fweb?audience=a")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.ParseRequestURI(s)
		if err != nil {
			return
		}
		uri, err := identityURI(u)
		if err != nil {
			return
		}
		again, err := resource.Parse(uri.String())
		if err != nil {
			return // too long
		}
		if again.Plugin != svid.Plugin || again.Host != uri.Host || len(again.Path) != 2 || again.Query != uri.Query || svid.CheckName(again.Path[1]) != nil {
			t.Fatalf("%q became %q", s, uri)
		}
	})
}
