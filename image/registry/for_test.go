package registry

import (
	"strings"
	"testing"

	"github.com/cofferproject/coffer/image/reference"
)

func TestCredentialsForOneImage(t *testing.T) {
	cfg := Config{
		Auth: []byte(`{"auths":{"one.example":{"username":"u1","password":"p:1"},"one.example/team":{"auth":"dTI6cDI="},"mirror.example":{"auth":"dTM6cDM="},"docker.io":{"auth":"dTQ6cDQ="}}}`),
		Conf: Conf{Registries: []Registry{{Prefix: "one.example/team", Location: "one.example/team", Mirrors: []Mirror{{Location: "mirror.example/team"}}}}},
	}
	for name, want := range map[string]map[string]credentials{
		"one.example/app":      {"one.example/app": {"u1", "p:1"}},
		"one.example/team/app": {"one.example/team/app": {"u2", "p2"}, "mirror.example/team/app": {"u3", "p3"}},
		"busybox":              {"docker.io/library/busybox": {"u4", "p4"}},
		"evil.example/app":     {},
	} {
		ref, err := reference.Parse(name + "@sha256:" + strings.Repeat("0", 64))
		if err != nil {
			t.Fatal(err)
		}
		got, err := cfg.For(ref)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := parseAuth(got.Auth)
		if err != nil {
			t.Fatal(err)
		}
		if len(keys) != len(want) {
			t.Errorf("%s: credentials for %d places, want %d", name, len(keys), len(want))
		}
		for place, c := range want {
			if keys[place] != c {
				t.Errorf("%s: other credentials for %s", name, place)
			}
		}
	}
	if _, err := (Config{Auth: []byte("{")}).For(reference.Reference{}); err == nil {
		t.Error("broken credentials pass")
	}
	if got, err := (Config{}).For(reference.Reference{}); err != nil || got.Auth != nil {
		t.Errorf("without credentials: %q, %v", got.Auth, err)
	}
}
