package trusteeapi

import (
	"strings"
	"testing"
)

func TestIdentityCheck(t *testing.T) {
	good := Identity{Name: "web", Path: "/ns/prod/web", LifeSeconds: 60, Audiences: []string{"db"}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Identity){
		"no name": func(i *Identity) { i.Name = "" }, "a name with a slash": func(i *Identity) { i.Name = "a/b" },
		"no path": func(i *Identity) { i.Path = "" }, "the root": func(i *Identity) { i.Path = "/" }, "up": func(i *Identity) { i.Path = "/a/../b" },
		"an empty segment": func(i *Identity) { i.Path = "/a//b" }, "escaped": func(i *Identity) { i.Path = "/a%2fb" }, "a query": func(i *Identity) { i.Path = "/a?b" },
		"a long path": func(i *Identity) { i.Path = "/" + strings.Repeat("a", 1024) }, "short": func(i *Identity) { i.LifeSeconds = 59 },
		"long": func(i *Identity) { i.LifeSeconds = 3601 }, "backwards": func(i *Identity) { i.LifeSeconds = -1 },
		"an empty audience": func(i *Identity) { i.Audiences = []string{""} }, "its own id": func(i *Identity) { i.ID = "spiffe://a/b" },
	} {
		i := good
		if change(&i); i.Check() == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for domain, want := range map[string]bool{
		"prod.example.org": true, "a": true, "a_b-c": true, "": false, "Prod": false, "a/b": false, "a:1": false, ".a": false, "a.": false, "a..b": false, strings.Repeat("a", 256): false,
	} {
		if got := CheckTrustDomain(domain) == nil; got != want {
			t.Errorf("%.40q: %t", domain, got)
		}
	}
}
