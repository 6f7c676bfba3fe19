package registry

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"

	"github.com/cofferproject/coffer/image/reference"
	"github.com/cofferproject/coffer/test/vectors"
)

func show(s []Source) string {
	var out []string
	for _, x := range s {
		p := "https"
		if x.Insecure {
			p = "http"
		}
		out = append(out, p+"://"+x.Ref.String())
	}
	return strings.Join(out, " ")
}

func TestVectorConf(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "image"), "registry-configuration.toml"))
	if err != nil {
		t.Fatal(err)
	}
	var c Conf
	if err := toml.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	if len(c.UnqualifiedSearch) != 2 {
		t.Errorf("%+v", c)
	}
	for ref, want := range map[string]string{
		"example.com/banned/app:1":    "blocked",
		"example.com/bannedapp":       "https://example.com/bannedapp",
		"mirror-test.com/a/b:1":       "http://127.0.0.1:5000/a/b:1 https://mirror-test.com/a/b:1",
		"remapping-test.com/a":        "http://127.0.0.1:5000/a",
		"127.0.0.1:5000/a":            "http://127.0.0.1:5000/a",
		"registry.mirror-test.com/a":  "https://registry.mirror-test.com/a",
		"mirror-test.com.evil.test/a": "https://mirror-test.com.evil.test/a",
		"evil.test/mirror-test.com/a": "https://evil.test/mirror-test.com/a",
		"127.0.0.1:50001/a":           "https://127.0.0.1:50001/a",
		"nginx":                       "https://docker.io/library/nginx",
	} {
		s, err := c.Sources(parse(t, ref))
		got := show(s)
		if err != nil {
			got = "blocked"
		}
		if got != want {
			t.Errorf("%s: %s (%v), want %s", ref, got, err, want)
		}
	}
}

func TestSources(t *testing.T) {
	sha := "@sha256:" + strings.Repeat("a", 64)
	c := Conf{Registries: []Registry{
		{Prefix: "r.test"},
		{Prefix: "r.test/team", Location: "other.test/x"},
		{Prefix: "r.test/team/app", MirrorByDigestOnly: true, Mirrors: []Mirror{{Location: "m.test"}}},
		{Prefix: "*.wild.test", Location: "w.test/mirror", Insecure: true},
		{Prefix: "*.keep.test", Insecure: true},
		{Prefix: "t.test", Mirrors: []Mirror{{Location: "d.test", PullFromMirror: "digest-only"}, {Location: "tag.test", PullFromMirror: "tag-only"}}},
		{Prefix: "docker.io/library", Location: "hub.test/lib"},
	}}
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"r.test/a":              "https://r.test/a",
		"r.test/team/b:1":       "https://other.test/x/b:1",
		"r.test/teams/b":        "https://r.test/teams/b",
		"r.test/team/app:1":     "https://r.test/team/app:1",
		"r.test/team/app" + sha: "https://m.test" + sha + "?",
		"a.wild.test:5000/p/q":  "",
		"wild.test/p":           "https://wild.test/p",
		"a.keep.test:5000/p":    "http://a.keep.test:5000/p",
		"t.test/a:1":            "https://tag.test/a:1 https://t.test/a:1",
		"t.test/a" + sha:        "https://d.test/a" + sha + " https://t.test/a" + sha,
		"nginx:1":               "https://hub.test/lib/nginx:1",
	} {
		s, err := c.Sources(parse(t, ref))
		switch {
		case strings.HasSuffix(want, "?"): // a location that leaves no repository
			if err == nil {
				t.Errorf("%s: %s", ref, show(s))
			}
		case want == "":
			if err != nil || show(s) != "http://w.test/mirror/p/q" {
				t.Errorf("%s: %s %v", ref, show(s), err)
			}
		case err != nil || show(s) != want:
			t.Errorf("%s: %s %v, want %s", ref, show(s), err, want)
		}
	}
	for _, bad := range []Conf{
		{Registries: []Registry{{}}},
		{Registries: []Registry{{Location: "http://r.test"}}},
		{Registries: []Registry{{Location: "r.test"}, {Prefix: "r.test"}}},
		{Registries: []Registry{{Location: "r.test", Mirrors: []Mirror{{}}}}},
		{Registries: []Registry{{Location: "r.test", Mirrors: []Mirror{{Location: "m.test", PullFromMirror: "x"}}}}},
		{Registries: []Registry{{Location: "a b"}}},
	} {
		if err := bad.Check(); err == nil {
			t.Errorf("accepted %+v", bad)
		}
	}
}

func TestAuth(t *testing.T) {
	k, err := parseAuth([]byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"YTpi"},"r.test":{"username":"u","password":"p"},"r.test/team/app":{"auth":"YzpkOmU="},"h.test":{}},"credsStore":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"docker.io/library/nginx": "a:b", "r.test/x": "u:p", "r.test/team/app": "c:d:e", "r.test/team/app2": "u:p", "r.test:5000/x": "", "h.test/x": "", "xr.test/x": ""} {
		c, ok := k.find(name)
		if got := c.user + ":" + c.password; ok != (want != "") || ok && got != want {
			t.Errorf("%s: %q %v", name, got, ok)
		}
	}
	for _, bad := range []string{`{"auths":{"r":{"auth":"%%"}}}`, `{"auths":{"r":{"auth":"YQ=="}}}`, `{"auths":{"r":{"identitytoken":"x"}}}`, `[]`} {
		if _, err := parseAuth([]byte(bad)); err == nil {
			t.Errorf("accepted %s", bad)
		}
	}
}

func TestNoProxy(t *testing.T) {
	p := Proxy{NoProxy: "a.test, .b.test,10.0.0.0/8,1.2.3.4, c.test:81,[::2]:80"}
	for u, want := range map[string]bool{
		"http://a.test/": true, "http://x.a.test/": true, "http://xa.test/": false, "http://b.test/": false, "http://x.b.test/": true, "https://10.9.9.9/": true,
		"https://11.0.0.1/": false, "http://1.2.3.4/": true, "http://c.test/": false, "http://c.test:81/": true, "http://localhost/": true, "http://127.0.0.9/": true, "http://[::2]/": true, "http://A.TEST./": true,
	} {
		v, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		if p.direct(v) != want {
			t.Errorf("%s: %v", u, !want)
		}
	}
	if !(Proxy{NoProxy: "*"}).direct(&url.URL{Scheme: "http", Host: "z.test"}) {
		t.Error("* does not match")
	}
	if _, err := New(Config{Proxy: Proxy{HTTP: "ftp://u:secret@x"}}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

func FuzzChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://a/token",service="x y",scope=a`)
	f.Add(`Basic`)
	f.Add(`Bearer realm="a\"b`)
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseChallenge(s)
		if err == nil && c.scheme != strings.ToLower(c.scheme) {
			t.Fatal(fmt.Sprint(c))
		}
	})
}

func FuzzSources(f *testing.F) {
	f.Add("r.test/team", "m.test/x", "r.test/team/app:1")
	f.Add("*.r.test", "m.test", "a.r.test/x")
	f.Fuzz(func(t *testing.T, prefix, location, ref string) {
		c := Conf{Registries: []Registry{{Prefix: prefix, Location: location}}}
		if c.Check() != nil || len(ref) > 300 {
			return
		}
		r, err := reference.Parse(ref)
		if err != nil {
			return
		}
		s, err := c.Sources(r)
		if err == nil && len(s) != 1 {
			t.Fatal("no source")
		}
	})
}
