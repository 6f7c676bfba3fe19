package reference

import (
	"strings"
	"testing"
)

const (
	sha = "sha256:18be1897f9402f27c8c0eba7c86e0c00f5656db62961b5949d55f9565c42c6e7"
)

func TestParse(t *testing.T) {
	good := map[string]string{
		"nginx":                               "docker.io/library/nginx",
		"nginx:1.27":                          "docker.io/library/nginx:1.27",
		"user/app":                            "docker.io/user/app",
		"index.docker.io/nginx":               "docker.io/library/nginx",
		"docker.io/nginx":                     "docker.io/library/nginx",
		"localhost/app":                       "localhost/app",
		"localhost:5000/app:v1":               "localhost:5000/app:v1",
		"127.0.0.1:5000/a/b/c":                "127.0.0.1:5000/a/b/c",
		"[::1]:5000/a":                        "[::1]:5000/a",
		"REG.example/a":                       "REG.example/a",
		"r.example/a__b/c--d/e.f":             "r.example/a__b/c--d/e.f",
		"r.example/a:T_1.x-@" + sha:           "r.example/a:T_1.x-@" + sha,
		"r.example/a@" + sha:                  "r.example/a@" + sha,
		"registry.k8s.io/pause:3.10":          "registry.k8s.io/pause:3.10",
		"gcr.io/google-samples/hello-app:1.0": "gcr.io/google-samples/hello-app:1.0",
	}
	for in, want := range good {
		r, err := Parse(in)
		if err != nil {
			t.Errorf("Parse(%q): %v", in, err)
			continue
		}
		if r.String() != want {
			t.Errorf("Parse(%q) = %s, want %s", in, r, want)
		}
		if again, err := Parse(r.String()); err != nil || again != r {
			t.Errorf("Parse(%q) again: %v %v", r, again, err)
		}
	}
	bad := []string{
		"", ":tag", "@" + sha, "a:", "a@sha256:00", "a@md5:d41d8cd98f00b204e9800998ecf8427e", "A", "r.example/A", "r.example/../a",
		"r.example/a/", "r.example//a", "/a", "a b", "a?b", "a#b", "a%2e", "r.example/a.", "r.example/a._b", "r.example/a___b",
		"r.example:port/a", "r.example:/a", "-r.example/a", "r..example/a", "[::1/a", "[zz]/a", "http://r.example/a", "a:b:c",
		"a:" + strings.Repeat("t", 129), strings.Repeat("a", 256), strings.Repeat("f", 64), "a\x00", "a\n", "é", "a@" + sha + "@" + sha,
		"a@SHA256:" + sha[7:], "a@sha256:" + strings.ToUpper(sha[7:]),
	}
	for _, in := range bad {
		if r, err := Parse(in); err == nil {
			t.Errorf("Parse(%q) = %s, want an error", in, r)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"nginx", "localhost:5000/a/b:c@" + sha, "[::1]:1/a", "a__b.c-d", "index.docker.io/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(r.String())
		if err != nil || again != r {
			t.Fatalf("%q gave %q, which gives %q, %v", s, r, again, err)
		}
		if strings.ContainsAny(r.String(), " ?#%\\\x00\n") || strings.Contains(r.Path, "..") {
			t.Fatalf("%q gave %q", s, r)
		}
	})
}
