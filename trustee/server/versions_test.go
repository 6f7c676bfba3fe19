package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
)

// putVersion stores a version with a query and gives its metadata.
func (a *adminClient) putVersion(name, secret string, q url.Values) *trusteeapi.Resource {
	a.t.Helper()
	p := trusteeapi.PathPrefix + "/namespaces/default/resources/" + name
	status, b := a.raw("PUT", p+"?"+q.Encode(), a.token("PUT", p), []byte(secret))
	if status != 200 {
		a.t.Fatalf("put: %d %s", status, b)
	}
	r := new(trusteeapi.Resource)
	if err := json.Unmarshal(b, r); err != nil {
		a.t.Fatal(err)
	}
	return r
}

func (a *adminClient) history(name string) *trusteeapi.History {
	a.t.Helper()
	h := new(trusteeapi.History)
	status, b := a.do("GET", "/namespaces/default/resources/"+name+"/versions", nil)
	if status != 200 {
		a.t.Fatalf("history: %d %s", status, b)
	}
	if err := json.Unmarshal(b, h); err != nil {
		a.t.Fatal(err)
	}
	return h
}

func (a *adminClient) change(name string, version int, change string) int {
	a.t.Helper()
	status, _ := a.do("POST", fmt.Sprintf("/namespaces/default/resources/%s/versions/%d/%s", name, version, change), []byte("{}"))
	return status
}

// content is what a client gets, and which version the answer says it is.
func (c *rcar) content(query string) (secret, version string) {
	c.t.Helper()
	a := c.get(secretName + query)
	if a.status != 200 {
		c.t.Fatalf("%s: %d %s", query, a.status, a.body)
	}
	return string(c.open(a.body)), a.header.Get(kbs.VersionHeader)
}

func TestSecretVersions(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "one", doc)
	w.admin.putVersion(secretName, "two", url.Values{"label": {"ticket=17"}})
	c := w.client("")
	c.handshake(doc)
	want := func(query, secret, version string) {
		t.Helper()
		if s, v := c.content(query); s != secret || v != version {
			t.Errorf("%s: %s, version %s; want %s, %s", query, s, v, secret, version)
		}
	}
	want("", "two", "2")
	want("?version=1", "one", "1")
	want("?after=1", "two", "2")
	want("?x=y", "two", "2")
	if a := c.get(secretName + "?after=2"); a.status != 304 {
		t.Errorf("after the newest: %d", a.status)
	}
	denied(t, w, c.get(secretName+"?version=3"), 404, "secret-absent")
	for _, q := range []string{"?version=x", "?version=0", "?version=1&version=2", "?version=1&after=1", "?wait=5", "?after=1&wait=31", "?after=-1"} {
		if a := c.get(secretName + q); a.status != 400 {
			t.Errorf("%s: %d", q, a.status)
		}
	}

	// A rollback is a new version; whoever waits for one sees it.
	if s := w.admin.change(secretName, 1, "rollback"); s != 200 {
		t.Fatal(s)
	}
	want("", "one", "3")
	// Deleting the newest does not bring its predecessor back.
	w.admin.change(secretName, 3, "delete")
	a := c.get(secretName)
	denied(t, w, a, 404, "secret-deleted")
	if a := c.get(secretName + "?after=2"); a.status != 304 {
		t.Errorf("a deleted version is newer: %d", a.status)
	}
	want("?version=2", "two", "2")
	w.admin.change(secretName, 3, "undelete")
	want("", "one", "3")
	w.admin.change(secretName, 3, "destroy")
	denied(t, w, c.get(secretName), 404, "secret-absent")
	if s := w.admin.change(secretName, 3, "undelete"); s != 409 {
		t.Errorf("undelete of what is destroyed: %d", s)
	}
	if s := w.admin.change(secretName, 3, "rollback"); s != 409 {
		t.Errorf("rollback to what is destroyed: %d", s)
	}
	if s := w.admin.change(secretName, 9, "delete"); s != 404 {
		t.Errorf("unknown version: %d", s)
	}
	if s := w.admin.change(secretName, 1, "explode"); s != 400 {
		t.Errorf("unknown change: %d", s)
	}

	h := w.admin.history(secretName)
	if len(h.Versions) != 3 || h.Versions[0].RestoredFrom != 1 || h.Versions[0].Destroyed.IsZero() || h.Versions[1].Labels["ticket"] != "17" || h.Versions[1].Actor == "" || h.Binding == nil {
		t.Errorf("history %+v", h)
	}
	// The audit log says which version left, and which one was changed.
	var left []string
	for _, e := range w.audit("release") {
		left = append(left, fmt.Sprint(e["version"]))
	}
	if got := strings.Join(left, " "); got != "2 1 2 2 3 2 3" {
		t.Errorf("released versions %s", got)
	}
	found := false
	for _, e := range w.audit("admin") {
		found = found || strings.HasSuffix(fmt.Sprint(e["resource"]), secretName+"/versions/3/destroy")
	}
	if !found {
		t.Error("no audit record of the destroyed version")
	}
}

// A number is never used again: the ciphertext of a place must be one for ever, and
// who waits after version 3 must see what comes after a deletion.
func TestVersionNumbersAreNotReused(t *testing.T) {
	w := newWorld(t)
	a := w.admin
	a.put("default", secretName, "one")
	a.put("default", secretName, "two")
	if s, b := a.do("DELETE", "/namespaces/default/resources/"+secretName, nil); s != 204 {
		t.Fatalf("%d %s", s, b)
	}
	if s, _ := a.do("GET", "/namespaces/default/resources/"+secretName+"/versions", nil); s != 404 {
		t.Errorf("history of a deleted secret: %d", s)
	}
	if r := a.putVersion(secretName, "three", url.Values{"if-version": {"0"}}); r.Version != 3 {
		t.Errorf("version %d after a deletion, want 3", r.Version)
	}
	for _, bucket := range []string{"ns/default/secret-content", "ns/default/secret-versions"} {
		if n := entries(t, w, bucket); n != 1 {
			t.Errorf("%s has %d entries", bucket, n)
		}
	}
	for range 20 {
		a.put("default", secretName, "more")
	}
	if n := entries(t, w, "ns/default/secret-content"); n != 10 {
		t.Errorf("%d versions are kept, want 10", n)
	}
	if h := a.history(secretName); len(h.Versions) != 10 || h.Versions[0].Version != 23 || h.Versions[9].Version != 14 {
		t.Errorf("%+v", h.Versions)
	}
}

func TestExpiryAndRotation(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "old", doc)
	at := func(d time.Duration) string { return w.clock.now().Add(d).Format(time.RFC3339) }
	w.admin.putVersion(secretName, "new", url.Values{"expire-previous": {at(2 * time.Minute)}, "expires": {at(10 * time.Minute)}, "if-version": {"1"}})
	p := trusteeapi.PathPrefix + "/namespaces/default/resources/" + secretName
	for q, status := range map[string]int{
		"if-version=1": 409, "expires=" + url.QueryEscape(at(-time.Hour)): 400, "expires=soon": 400, "label=x": 400, "label=UPPER=1": 400, "force=1": 400,
		"expires=a&expires=b": 400,
	} {
		if s, b := w.admin.raw("PUT", p+"?"+q, w.admin.token("PUT", p), []byte("x")); s != status {
			t.Errorf("%s: %d %s, want %d", q, s, b, status)
		}
	}
	c := w.client("")
	c.handshake(doc)
	if s, _ := c.content("?version=1"); s != "old" {
		t.Errorf("in the grace time: %s", s)
	}
	w.clock.advance(3 * time.Minute)
	denied(t, w, c.get(secretName+"?version=1"), 404, "secret-expired")
	if s, v := c.content(""); s != "new" || v != "2" {
		t.Errorf("%s, version %s", s, v)
	}
	w.clock.advance(10 * time.Minute)
	n := w.client("")
	n.handshake(doc)
	denied(t, w, n.get(secretName), 404, "secret-expired")
}

func TestWaitForAVersion(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "one", doc)
	c := w.client("")
	c.handshake(doc)
	got := make(chan string)
	go func() {
		a := c.get(secretName + "?after=1&wait=30")
		if a.status != 200 {
			got <- fmt.Sprint(a.status)
			return
		}
		got <- string(c.open(a.body))
	}()
	await(t, func() bool { return w.s.gate.Waiting() == 1 })
	if n := len(w.audit("release")); n != 0 {
		t.Errorf("%d releases before there is anything", n)
	}
	began := time.Now()
	w.admin.put("default", secretName, "two")
	if s := <-got; s != "two" {
		t.Errorf("got %s", s)
	}
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("the waiting client heard of it after %s", d)
	}
	// In vain.
	if a := c.get(secretName + "?after=2&wait=1"); a.status != 304 || len(a.body) != 0 {
		t.Errorf("%d %s", a.status, a.body)
	}
	// Nobody waits for what he may not have, nor longer than he may have it.
	other := w.client("")
	other.handshake(document(t, "pod b"))
	denied(t, w, other.get(secretName+"?after=2&wait=30"), 403, "secret-unbound")
	go func() {
		a := c.do("GET", "/resource/"+secretName+"?after=2&wait=30", nil)
		got <- a.err.Reason
	}()
	await(t, func() bool { return w.s.gate.Waiting() == 1 })
	if s, b := w.admin.do("DELETE", "/namespaces/default/bindings/"+secretName, nil); s != 204 {
		t.Fatalf("%d %s", s, b)
	}
	w.admin.put("default", secretName, "three")
	if s := <-got; s != "secret-unbound" {
		t.Errorf("unbound while waiting: %q", s)
	}
	await(t, func() bool { return w.s.gate.Waiting() == 0 })
}

// await waits until a condition holds.
func await(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen within 10 s")
		}
	}
}

// A wait may be longer than the time that other requests have on a connection, in
// both versions of HTTP.
func TestLongWait(t *testing.T) {
	if testing.Short() {
		t.Skip("22 seconds")
	}
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "one", doc)
	got := make(chan string, 2)
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		c := w.client("")
		c.http.Transport.(*http.Transport).ForceAttemptHTTP2 = proto == "HTTP/2.0"
		c.handshake(doc)
		go func() {
			resp, err := c.http.Get(c.base + "/resource/" + secretName + "?after=1&wait=22")
			if err != nil {
				got <- err.Error()
				return
			}
			resp.Body.Close()
			got <- fmt.Sprint(resp.Proto, " ", resp.StatusCode)
		}()
	}
	began := time.Now()
	seen := []string{<-got, <-got}
	slices.Sort(seen)
	if fmt.Sprint(seen) != "[HTTP/1.1 304 HTTP/2.0 304]" || time.Since(began) < 21*time.Second {
		t.Errorf("%v after %s", seen, time.Since(began))
	}
}
