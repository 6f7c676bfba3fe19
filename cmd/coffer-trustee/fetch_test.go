package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFetch(t *testing.T) {
	guest := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/cdh/resource/default/trustee/key":
			w.Write([]byte("the key"))
		case "/cdh/resource/default/trustee/huge":
			w.Write(bytes.Repeat([]byte{1}, maxFetched+1))
		case "/cdh/resource/default/trustee/moved":
			http.Redirect(w, r, "/cdh/resource/default/trustee/key", http.StatusFound)
		default:
			http.Error(w, "denied: resource-not-bound, record 1234", http.StatusForbidden)
		}
	}))
	defer guest.Close()
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "key")
	if err := run([]string{"fetch", "--rest", guest.URL, "kbs:///default/trustee/key", file}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "the key" {
		t.Errorf("%q, %v", b, err)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	for name, x := range map[string]struct {
		args []string
		want string
	}{
		"denied":           {[]string{"kbs:///default/trustee/none", file + "2"}, "resource-not-bound, record 1234"},
		"too large":        {[]string{"kbs:///default/trustee/huge", file + "2"}, "more than"},
		"elsewhere":        {[]string{"kbs:///default/trustee/moved", file + "2"}, "302"},
		"a file there":     {[]string{"kbs:///default/trustee/key", there}, "exists"},
		"no pair":          {[]string{"kbs:///default/trustee/key"}, "pairs"},
		"no resource":      {[]string{"https://example.org/key", file + "2"}, "scheme"},
		"another machine":  {[]string{"--rest", "http://192.0.2.1:8006", "kbs:///default/trustee/key", file + "2"}, "loopback"},
		"a name":           {[]string{"--rest", "http://localhost:8006", "kbs:///default/trustee/key", file + "2"}, "loopback"},
		"no guest answers": {[]string{"--rest", "http://127.0.0.1:1", "kbs:///default/trustee/key", file + "2"}, "REST API"},
	} {
		if err := run(append([]string{"fetch", "--rest", guest.URL}, x.args...)); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %q", name, err, x.want)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	if b, _ := os.ReadFile(there); string(b) != "old" {
		t.Errorf("overwritten: %q", b)
	}
}
