package server

import (
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/audit"
)

// ours are the components that say of every refusal what they found, what they would
// have taken, and who says so. Verifiers of TEEs may give a detail instead.
var ours = []string{"kbs", "attestation-service", "resource-policy", "trustee-admin"}

// explained checks that a refusal can be looked up under the id that the peer was told,
// by who may and by nobody else, and that the peer was told no more. Whatever test sees
// a refusal through denied comes through here.
func explained(t *testing.T, w *world, a *answer) {
	t.Helper()
	if a.err.Record == "" {
		if !strings.HasPrefix(a.err.Reason, "session-") {
			t.Errorf("%s: the peer is told no id", a.err.Reason)
		}
		return // a session that merely ended is no decision
	}
	if status, b := w.admin.raw("GET", trusteeapi.PathPrefix+"/attestations/"+a.err.Record, "", nil); status != 401 || strings.Contains(string(b), "measured") {
		t.Errorf("%s: anybody may look it up: %d %s", a.err.Reason, status, b)
	}
	if w.clock.ahead() {
		return // an administrator's token would be too old
	}
	r := w.admin.record(a.err.Record)
	d := r.Denial
	if d == nil || r.Outcome != trusteeapi.OutcomeDenied || r.ID != a.err.Record || string(d.Reason) != a.err.Reason || d.Claim != a.err.Claim || d.Component == "" {
		t.Fatalf("%s: the record is of something else: %+v, %+v", a.err.Reason, r, d)
	}
	if slices.Contains(ours, d.Component) && (d.Measured == "" || d.Expected == "" || d.Source == "") || d.Measured == "" && d.Detail == "" {
		t.Errorf("%s by %s is not explained: %+v", d.Reason, d.Component, d)
	}
	for _, s := range []string{d.Measured, d.Expected, d.Source, d.Detail} {
		if len(s) > 12 && strings.Contains(string(a.body), s) && !strings.Contains(a.err.Claim, s) {
			t.Errorf("%s: the peer is told %q", d.Reason, s)
		}
	}
}

// On a full disk nothing is released and every refusal is still explained; all goes on
// when there is room.
func TestFullDisk(t *testing.T) {
	state := t.TempDir()
	dir := filepath.Join(state, "audit")
	if err := unix.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("coffer-test", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("no file system of its own, which needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	w := newWorld(t, withOps, func(c *Config) { c.State = state })
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	c, stranger := w.client("default"), w.client("default")
	c.handshake(doc)
	stranger.handshake(document(t, "pod b"))
	if a := c.get(secretName); a.status != 200 {
		t.Fatal(a.status)
	}
	fd, err := unix.Open(filepath.Join(dir, "filler"), unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for err == nil {
		_, err = unix.Write(fd, make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	// What is left of the last page goes to a few.
	var full *answer
	await(t, func() bool { full = c.get(secretName); return full.status != 200 })
	before := len(w.audit("release"))
	denied(t, w, full, 503, "audit-unavailable")
	for range 5 {
		denied(t, w, c.get(secretName), 503, "audit-unavailable")
		denied(t, w, stranger.get(secretName), 403, "secret-unbound")
	}
	if s, _ := w.admin.do("PUT", "/namespaces/default/resources/"+secretName, []byte("x")); s != http.StatusServiceUnavailable {
		t.Errorf("a change without a record: %d", s)
	}
	await(t, func() bool { s, b := w.scrape("/readyz"); return s == 503 && strings.Contains(b, "audit log") })
	if n := len(w.audit("release")); n != before {
		t.Errorf("%d releases recorded meanwhile", n-before)
	}
	if err := unix.Unlink(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, 0); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return c.get(secretName).status == 200 })
	denied(t, w, stranger.get(secretName), 403, "secret-unbound")
	counted := 0.0
	for _, e := range w.audit("suppressed") {
		counted += e["count"].(float64)
	}
	if counted < 11 {
		t.Errorf("%v refusals are counted, which were not recorded", counted)
	}
	w.stop()
	if _, err := audit.Verify(dir); err != nil {
		t.Error(err)
	}
}

// A refused attestation and its policy are in the record with what they said.
func TestPolicyTraceIsKept(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	c := w.client("default")
	c.handshake(doc, func(e *fakeEvidence) { e.Hardware = 33 })
	a := c.get(secretName)
	denied(t, w, a, 403, "status-unacceptable")
	att := w.admin.record(w.admin.record(a.err.Record).Attestation)
	if len(att.Appraisals) == 0 || att.Appraisals[0].Policy == "" || att.Time.After(time.Now().Add(time.Minute)) {
		t.Errorf("%+v", att)
	}
}
