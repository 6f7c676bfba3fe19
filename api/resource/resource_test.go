package resource

import (
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]struct {
		u    URI
		http string
		text string
	}{
		"kbs:///alice/cosign-key/213":                      {URI{"resource", "", []string{"alice", "cosign-key", "213"}, ""}, "/resource/alice/cosign-key/213", ""},
		"kbs:///repo/type/tag?param1=value1&param2=value2": {URI{"resource", "", []string{"repo", "type", "tag"}, "param1=value1&param2=value2"}, "/resource/repo/type/tag?param1=value1&param2=value2", ""},
		"kbs+pkcs11:///repo/type/tag":                      {URI{"pkcs11", "", []string{"repo", "type", "tag"}, ""}, "/pkcs11/repo/type/tag", ""},
		"kbs+myplugin:///a/b/c":                            {URI{"myplugin", "", []string{"a", "b", "c"}, ""}, "/myplugin/a/b/c", ""},
		"kbs+custom://example.com:8080/repo/type/tag":      {URI{"custom", "example.com:8080", []string{"repo", "type", "tag"}, ""}, "/custom/repo/type/tag", ""},
		"kbs+resource:///a/b/c":                            {URI{"resource", "", []string{"a", "b", "c"}, ""}, "/resource/a/b/c", "kbs:///a/b/c"},
		"kbs+p:///one":                                     {URI{"p", "", []string{"one"}, ""}, "/p/one", ""},
		"kbs:///_r/-t/a.b.c":                               {URI{"resource", "", []string{"_r", "-t", "a.b.c"}, ""}, "/resource/_r/-t/a.b.c", ""},
	} {
		u, err := Parse(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if u.Plugin != want.u.Plugin || u.Host != want.u.Host || u.Query != want.u.Query || !slices.Equal(u.Path, want.u.Path) || u.HTTPPath() != want.http {
			t.Errorf("%s: %+v, %s", in, u, u.HTTPPath())
		}
		text := want.text
		if text == "" {
			text = in
		}
		if u.String() != text {
			t.Errorf("%s: written as %s", in, u)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, in := range []string{
		"", "kbs://", "kbs:///", "kbs:///a/b", "kbs:///a/b/c/d", "kbs:////a/b/c", "kbs:///a//c", "kbs:///a/../c", "kbs:///../b/c", "kbs:///.a/b/c", "kbs:///a/b/c%2f", "kbs:///a/b/ü", "kbs:///a/b/c\n",
		"http:///a/b/c", "kbs+:///a/b/c", "kbs+A:///a/b/c", "kbs+a/b:///x", "kbs://u@h/a/b/c", "kbs:///a/b/c?x=%zz", "kbs:///a/b/c?a#b", "kbs:///a/b/" + strings.Repeat("c", 2000), "a/b/c",
		"kbs+p:///" + strings.Repeat("a/", 20) + "a",
	} {
		if u, err := Parse(in); err == nil {
			t.Errorf("%q accepted as %+v", in, u)
		}
	}
	if _, err := New("a", "b", ".."); err == nil {
		t.Error("New accepted ..")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("kbs:///a/b/c?x=y")
	f.Add("kbs+plug://host:1/a")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := Parse(s)
		if err != nil {
			return
		}
		v, err := Parse(u.String())
		if err != nil || v.String() != u.String() || strings.Contains(u.HTTPPath(), "/../") {
			t.Errorf("%q: %+v, %v", s, v, err)
		}
	})
}
