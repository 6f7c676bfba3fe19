package pod

import (
	"os"
	"path/filepath"
	"testing"
)

// manifests gives the published manifests, which this project does not carry.
func manifests(t testing.TB) map[string][]byte {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		files, _ := filepath.Glob(filepath.Join(dir, "shared/manifests/*.yaml"))
		if len(files) == 0 {
			continue
		}
		out := map[string][]byte{}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			out[filepath.Base(f)] = b
		}
		return out
	}
	if os.Getenv("CI") == "true" { // a missing mount must not pass for a green run
		t.Fatal("shared/manifests is not there")
	}
	t.Skip("shared/manifests is not there")
	return nil
}

func TestPublishedManifests(t *testing.T) {
	all := manifests(t)
	if len(all) < 15 {
		t.Errorf("%d manifests", len(all))
	}
	for name, b := range all {
		p, err := Parse(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(p.Notes) > 0 {
			t.Errorf("%s: notes %q", name, p.Notes)
		}
	}
}

func TestDependentVariables(t *testing.T) {
	b, ok := manifests(t)["dependent-envars.yaml"]
	if !ok {
		t.Skip("dependent-envars.yaml is not there")
	}
	p, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	proc, err := p.Process(p.All()[0])
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"UNCHANGED_REFERENCE": "$(PROTOCOL)://172.17.0.1:80", // PROTOCOL comes later
		"SERVICE_ADDRESS":     "https://172.17.0.1:80",
		"ESCAPED_REFERENCE":   "$(PROTOCOL)://172.17.0.1:80",
	}
	for _, v := range proc.Env {
		if w, ok := want[v.Name]; ok && v.Value != w {
			t.Errorf("%s is %q, want %q", v.Name, v.Value, w)
		}
	}
}
