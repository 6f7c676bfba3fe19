package server

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/store"
)

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func cookies(name, value string) []*http.Cookie {
	return []*http.Cookie{{Name: name, Value: value, Path: "/kbs/v0", Secure: true}}
}

// cookieValue gives the session cookie of the client.
func (c *rcar) cookieValue() string {
	c.t.Helper()
	for _, k := range c.http.Jar.Cookies(mustURL(c.t, c.base+"/attest")) {
		if k.Name == "kbs-session-id" {
			return k.Value
		}
	}
	c.t.Fatal("no session cookie")
	return ""
}

// entries counts the keys of a bucket.
func entries(t testing.TB, w *world, bucket string) int {
	t.Helper()
	n := 0
	if err := w.s.store.View(t.Context(), func(tx store.Tx) error {
		return tx.Scan(bucket, "", func(string, []byte) (bool, error) { n++; return true, nil })
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// buckets counts what a handshake could write to.
func buckets(t testing.TB, w *world) int {
	n := 0
	for _, b := range []string{"session-expiry", "record-index", "ns/default/sessions", "ns/default/records"} {
		n += entries(t, w, b)
	}
	return n
}

// keysOf gives what a client needs of a server in another process.
func keysOf(c trusteeapi.ClientConfig) *keyring.Keys { return &keyring.Keys{CAPEM: []byte(c.CAPEM)} }

// quiet sends a request and reports whether it succeeded; the server may be dead.
func quiet(h *http.Client, method, url, authorization, body string) bool {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return false
	}
	req.Header.Set("Authorization", authorization)
	resp, err := h.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}
