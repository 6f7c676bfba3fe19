package kbsconfig

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"sigs.k8s.io/yaml"

	"github.com/cofferproject/coffer/test/vectors"
)

// Every file of the other implementation means the same in YAML as in TOML. Another
// library writes the YAML than the one that reads it here.
func TestYAMLMeansTheSame(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectors.Dir(t, "kbs"), "configs", "*.toml"))
	if err != nil || len(files) < 14 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	taken := 0
	for _, f := range files {
		var m map[string]any
		if _, err := toml.DecodeFile(f, &m); err != nil {
			t.Fatal(err)
		}
		doc, err := yaml.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		p := filepath.Join(t.TempDir(), "kbs-config.yaml")
		if err := os.WriteFile(p, doc, 0o600); err != nil {
			t.Fatal(err)
		}
		want, werr := Read(f)
		got, gerr := Read(p)
		if (werr == nil) != (gerr == nil) || werr != nil && strings.ReplaceAll(werr.Error(), f, "") != strings.ReplaceAll(gerr.Error(), p, "") {
			t.Errorf("%s: %v, in YAML %v", filepath.Base(f), werr, gerr)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, in YAML %+v", filepath.Base(f), want, got)
		}
		if gerr == nil {
			taken++
		}
	}
	if taken < 3 {
		t.Errorf("only %d files were taken: the test shows nothing", taken)
	}
}

func TestYAMLRefused(t *testing.T) {
	const ok = "http_server:\n  sockets: [\"127.0.0.1:1\"]\nadmin:\n  authorization_mode: DenyAll\n"
	if c, err := ParseYAML([]byte(ok)); err != nil || c.Listen != "127.0.0.1:1" {
		t.Fatalf("%+v %v", c, err)
	}
	for doc, want := range map[string]string{
		"":                                "EOF",
		"- a\n":                           "not a map",
		ok + "---\n" + ok:                 "data after",
		ok + "admin: {}\n":                "twice",
		ok + "x: &a 1\n":                  "anchors",
		ok + "x: *a\n":                    "unknown anchor",
		ok + "x: {<<: {a: 1}}\n":          "a key is not",
		ok + "1: x\n":                     "a key is not",
		ok + "x: !!binary aGk=\n":         "type !!binary",
		ok + "x: 2026-01-01\n":            "type !!timestamp",
		ok + "x: 0x10\n":                  "no decimal number",
		ok + "x: .inf\n":                  "no decimal number",
		ok + "x:\n":                       "without a value",
		ok + "surprise: 1\n":              "surprise: unknown key",
		ok + strings.Repeat("[", 200):     "nested",
		strings.Repeat(" ", MaxSize+1):    "more than",
		strings.Repeat("a: {", 17) + "\n": "nested",
		strings.Replace(ok, "DenyAll", "\n    - DenyAll", 1): "authorization_mode",
	} {
		if c, err := ParseYAML([]byte(doc)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %+v %v, want %q", doc, c, err, want)
		}
	}
	// What some read as true is a text, and refused where true or false is wanted.
	if _, err := ParseYAML([]byte(strings.Replace(ok, "http_server:\n", "http_server:\n  insecure_http: yes\n", 1))); err == nil || !strings.Contains(err.Error(), "insecure_http") {
		t.Errorf("yes: %v", err)
	}
}
