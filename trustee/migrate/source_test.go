package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// shop is a target with behaviour.
type shop struct {
	secrets, policies, bundles map[string]string
}

func newShop() *shop {
	return &shop{map[string]string{}, map[string]string{}, map[string]string{}}
}

func names(m map[string]string) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (s *shop) Secrets(context.Context) ([]string, error) { return names(s.secrets), nil }
func (s *shop) PutSecret(_ context.Context, n string, b []byte) error {
	s.secrets[n] = string(b)
	return nil
}
func (s *shop) Policy(_ context.Context, n string) (string, error) { return s.policies[n], nil }
func (s *shop) PutPolicy(_ context.Context, n, text string) error {
	s.policies[n] = text
	return nil
}
func (s *shop) IsSecret(_ context.Context, n string, b []byte) (bool, error) {
	return s.secrets[n] == string(b), nil
}
func (s *shop) Bundles(context.Context) (map[string]string, error) {
	out := map[string]string{}
	for n, doc := range s.bundles {
		sum := sha256.Sum256([]byte(doc))
		out[n] = hex.EncodeToString(sum[:])
	}
	return out, nil
}
func (s *shop) PutBundle(_ context.Context, n string, doc []byte) error {
	s.bundles[n] = string(doc)
	return nil
}

var now = time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)

const rego = "package policy\ntrust_claims := {\"hardware\": 97}\n"

func stored(name, end, value string) string {
	return `{"version":"0.1.0","name":"` + name + `","expiration":"` + end + `","value":` + value + `}`
}

// localFs lays files out as the existing service does.
func localFs(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		store, key, _ := strings.Cut(name, "/")
		if err := os.MkdirAll(filepath.Join(dir, store), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, store, strings.ReplaceAll(key, "/", `\x2F`)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func actions(r *Report) map[string]Action {
	out := map[string]Action{}
	for _, it := range r.Items {
		out[it.Store+"/"+it.Key] = it.Action
	}
	return out
}

func TestRun(t *testing.T) {
	dir := localFs(t, map[string]string{
		"repository/one/two/three":                              "hunter2",
		"repository/one/two":                                    "no resource has two parts",
		"repository/../two/three":                               "nor dots",
		"repository/big/one/x":                                  strings.Repeat("x", maxFile+1),
		"attestation_service_policy/default_cpu.rego":           rego,
		"attestation_service_policy/default.rego":               rego,
		"attestation_service_policy/broken_cpu.rego":            "package other",
		"reference_value/svn":                                   stored("svn", "2027-03-01T00:00:00Z", "[1]"),
		"reference_value/measurement":                           stored("measurement", "2027-03-20T10:00:00Z", `["aa"]`),
		"reference_value/later":                                 stored("later", "2027-04-20T10:00:00Z", `{"a":1}`),
		"reference_value/old":                                   stored("old", "2026-01-01T00:00:00Z", "[1]"),
		"reference_value/lie":                                   stored("svn", "2027-03-01T00:00:00Z", "[2]"),
		"reference_value/null":                                  stored("null", "2027-03-01T00:00:00Z", "null"),
		"kbs/resource-policy.rego":                              "package policy\ndefault allow = true",
		"kbs_protocol_session/0123456789abcdef":                 "{}",
		"provisioner/default/3c5b2d8e/root":                     "key",
		"..data/what Kubernetes has beside what it has mounted": "",
	})
	want := map[string]Action{
		"repository/one/two/three": Import, "repository/one/two": Refuse, "repository/../two/three": Refuse, "repository/big/one/x": Refuse,
		"attestation_service_policy/default_cpu.rego": Import, "attestation_service_policy/default.rego": Refuse, "attestation_service_policy/broken_cpu.rego": Refuse,
		"reference_value/svn": Import, "reference_value/measurement": Import, "reference_value/later": Import, "reference_value/old": Refuse,
		"reference_value/lie": Refuse, "reference_value/null": Refuse, "kbs/resource-policy.rego": Skip, "kbs_protocol_session/0123456789abcdef": Skip,
		"provisioner/default/3c5b2d8e/root": Skip,
	}
	s := newShop()
	for _, dry := range []bool{true, false} {
		r, err := Run(t.Context(), Folder(dir), s, Options{DryRun: dry, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		got := actions(r)
		for k, a := range want {
			if got[k] != a {
				t.Errorf("%s: %s, want %s", k, got[k], a)
			}
		}
		if len(got) != len(want) || r.Counts[Import] != 5 || r.DryRun != dry {
			t.Errorf("%d entries, counts %v", len(got), r.Counts)
		}
		if n := len(s.secrets) + len(s.policies) + len(s.bundles); dry && n > 0 {
			t.Errorf("a dry run changed %d things", n)
		}
		for _, it := range r.Items {
			if strings.Contains(it.Why+it.As, "hunter2") || slices.ContainsFunc(it.data, func(b byte) bool { return b != 0 }) {
				t.Errorf("content in the report: %+v", it)
			}
		}
	}
	if s.secrets["one/two/three"] != "hunter2" || s.policies["default_cpu"] != rego || len(s.secrets) != 1 || len(s.policies) != 1 {
		t.Errorf("%v %v", s.secrets, s.policies)
	}
	if b := s.bundles["import-2027-03"]; len(s.bundles) != 2 || !strings.Contains(b, `"expires":"2027-03-01T00:00:00Z"`) || !strings.Contains(b, `"measurement":["aa"]`) {
		t.Errorf("bundles %q", s.bundles)
	}

	// Once more: nothing that is there is touched, unless that is wanted.
	s.secrets["one/two/three"] = "newer"
	r, err := Run(t.Context(), Folder(dir), s, Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if got := actions(r); got["repository/one/two/three"] != Refuse || got["attestation_service_policy/default_cpu.rego"] != Present || got["reference_value/svn"] != Present {
		t.Errorf("%v", got)
	}
	if s.secrets["one/two/three"] != "newer" {
		t.Error("a newer secret was replaced")
	}
	if r, err = Run(t.Context(), Folder(dir), s, Options{Now: now, Replace: true}); err != nil || r.Counts[Import] != 1 || s.secrets["one/two/three"] != "hunter2" {
		t.Errorf("%v %v", err, r)
	}
}

func TestLocalJSON(t *testing.T) {
	for _, name := range []string{"repository", "repository.json"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(`{"one/two/three":"aHVudGVyMg==","a/b/c":"aHVudGVyMg","d/e/f":"__-_"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		s := newShop()
		r, err := Run(t.Context(), Folder(dir), s, Options{Now: now})
		if err != nil {
			t.Fatal(err)
		}
		if got := actions(r); got["repository/one/two/three"] != Import || got["repository/a/b/c"] != Refuse || s.secrets["d/e/f"] != "\xff\xff\xbf" || s.secrets["one/two/three"] != "hunter2" {
			t.Errorf("%s: %v %q", name, got, s.secrets)
		}
	}
}

func TestSourceRefused(t *testing.T) {
	write := func(dir, name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	outside := filepath.Join(t.TempDir(), "secret")
	write(filepath.Dir(outside), "secret", "of somebody else")
	for name, make := range map[string]func(dir string){
		"empty":             func(string) {},
		"not JSON":          func(d string) { write(d, "repository", "x") },
		"a list":            func(d string) { write(d, "repository", "[]") },
		"no strings":        func(d string) { write(d, "repository", `{"a/b/c":1}`) },
		"two of one name":   func(d string) { write(d, "repository", `{"a/b/c":"","a/b/c":""}`) },
		"data after":        func(d string) { write(d, "repository", `{}{}`) },
		"both forms":        func(d string) { write(d, "repository/x", ""); write(d, "repository.json", "{}") },
		"a store elsewhere": func(d string) { os.Symlink(outside, filepath.Join(d, "repository")) },
	} {
		dir := t.TempDir()
		make(dir)
		if r, err := Run(t.Context(), Folder(dir), newShop(), Options{Now: now}); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// A link out of the store is refused, and the rest is brought over.
	dir := localFs(t, map[string]string{"repository/a/b/c": "x"})
	if err := os.Symlink(outside, filepath.Join(dir, "repository", `x\x2Fy\x2Fz`)); err != nil {
		t.Fatal(err)
	}
	s := newShop()
	r, err := Run(t.Context(), Folder(dir), s, Options{Now: now})
	if err != nil || actions(r)["repository/x/y/z"] != Refuse || len(s.secrets) != 1 {
		t.Errorf("%v %v %q", err, r, s.secrets)
	}
	if _, err := Run(t.Context(), Folder(filepath.Join(dir, "none")), s, Options{Now: now}); err == nil {
		t.Error("read a folder that is not there")
	}
}

// FuzzParseJSON: no file panics, and no name comes twice.
func FuzzParseJSON(f *testing.F) {
	f.Add([]byte(`{"one/two/three":"aHVudGVyMg==","x":"%"}`))
	f.Add([]byte(`{"a":{"b":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		items, err := parseJSON(b, storeValues)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, it := range items {
			if seen[it.Key] {
				t.Errorf("%q twice", it.Key)
			}
			seen[it.Key] = true
			if it.Action != Refuse {
				_, _, _ = decodeValue(it.data)
			}
		}
	})
}
