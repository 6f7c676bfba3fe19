package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
)

// TestReplicas has three replicas on one real PostgreSQL under load: a rolling
// restart without a failed request, a kill -9 without a failed handshake, and a
// database that restarts; nothing that was acknowledged is lost, and each
// replica's audit chain is whole.
func TestReplicas(t *testing.T) {
	c := newCluster(t)
	doc := document(t, "pod a")
	c.admin.put("default", secretName, "hunter2")
	c.admin.must("POST", "/namespaces/default/bindings/"+secretName, trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(doc)}})
	for i, r := range c.replicas {
		resp, err := c.admin.http.Get(r.cfg.URL + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("replica %d is not ready: %d", i, resp.StatusCode)
		}
	}
	t.Run("sessions", func(t *testing.T) { c.sessions(t, doc) })
	t.Run("token once", c.tokenOnce)
	t.Run("collateral", c.collateral)
	tr := c.traffic(doc)
	tr.more(t, 10)

	for _, r := range c.replicas {
		c.balance(r) // as an orchestrator does: out of the balancer first
		if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		r.wait(t)
		c.start(r)
		c.balance()
		tr.more(t, 5)
	}
	if n := tr.failed.Load(); n != 0 {
		t.Errorf("rolling restart: %d failed requests", n)
	}

	tr.strict.Store(false) // an answer that dies with its server cannot be had
	victim := c.replicas[1]
	victim.cmd.Process.Kill()
	victim.cmd.Wait()
	tr.more(t, 20) // with the dead one in the balancer still
	c.start(victim)
	c.balance()

	c.pg.Stop()
	time.Sleep(200 * time.Millisecond)
	c.pg.Start()
	tr.more(t, 10)
	if n := tr.failed.Load(); n != 0 {
		t.Errorf("kill -9 and restart of the database: %d failed handshakes", n)
	}
	close(tr.stop)
	tr.wg.Wait()

	checkAcked(t, c.admin, tr.acked)
	if len(tr.acked) < 10 || tr.released.Load() < 50 {
		t.Errorf("%d secrets stored, %d released: the test shows nothing", len(tr.acked), tr.released.Load())
	}
	releases := c.storedReleases(t)
	for i, r := range c.replicas {
		dir := filepath.Join(r.dir, "audit")
		if _, err := os.Stat(dir); r.inStore {
			if !errors.Is(err, os.ErrNotExist) {
				t.Errorf("replica %d has an audit log of its own: %v", i, err)
			}
			continue
		}
		n, err := audit.Verify(dir)
		if err != nil || n == 0 {
			t.Errorf("audit chain of replica %d: %d records, %v", i, n, err)
		}
		fs, _ := filepath.Glob(filepath.Join(dir, "*.jsonl"))
		for _, f := range fs {
			b, _ := os.ReadFile(f)
			releases += bytes.Count(b, []byte(`"kind":"release"`))
		}
	}
	if releases < int(tr.released.Load()) {
		t.Errorf("%d secrets left, %d audit records", tr.released.Load(), releases)
	}
	t.Logf("%d handshakes (at most %d attempts), %d released, %d lost with their connection, %d stored, %d audited",
		tr.handshakes.Load(), tr.worst.Load(), tr.released.Load(), tr.transport.Load(), tr.puts.Load(), releases)
}

// storedReleases checks the audit logs in the database, one of each start of the
// replica that keeps its log there, and counts their releases.
func (c *cluster) storedReleases(t *testing.T) int {
	t.Helper()
	status, b := c.admin.do("GET", "/audit/logs", nil)
	var logs []trusteeapi.AuditLog
	if err := json.Unmarshal(b, &logs); err != nil || status != 200 {
		t.Fatalf("audit logs: %d %s %v", status, b, err)
	}
	releases, stored := 0, 0
	for _, l := range logs {
		if l.Began.IsZero() {
			continue // in files of the replica that answers
		}
		stored++
		chain := auditlog.NewChain()
		for {
			_, b := c.admin.do("GET", "/audit?log="+l.ID+"&after="+strconv.FormatUint(chain.Seq, 10), nil)
			if len(b) == 0 {
				break
			}
			for line := range bytes.Lines(b) {
				if err := chain.Next(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
					t.Fatal(err)
				}
			}
			releases += bytes.Count(b, []byte(`"kind":"release"`))
		}
		// Less than what it has grown by in the meantime.
		if chain.First != l.ID || chain.Seq < l.Records || l.Host == "" {
			t.Errorf("log %+v: %d records, the first is %s", l, chain.Seq, chain.First)
		}
	}
	// The first start, the one after the rolling restart, the one after kill -9.
	if stored != 3 {
		t.Errorf("%d logs in the database", stored)
	}
	return releases
}

// sessions opens a session on one replica, attests on another and reads on the
// third; all sign with the same key.
func (c *cluster) sessions(t *testing.T, doc []byte) {
	at := func(i int) string { return c.replicas[i].cfg.URL + "/kbs/v0" }
	g := newRCAR(t, c.replicas[0].cfg.CAPEM, c.replicas[0].cfg.URL)
	move := func(i int) {
		k := g.cookieValue()
		g.base = at(i)
		g.http.Jar.SetCookies(mustURL(t, g.base), cookies("kbs-session-id", k))
	}
	if a := g.auth(fakeTEE, `""`); a.status != 200 {
		t.Fatalf("auth: %d %s", a.status, a.body)
	}
	opened := g.cookieValue()
	move(1)
	if a := g.attest(g.fake(doc), doc); a.status != 200 {
		t.Fatalf("attest on another replica: %d %s", a.status, a.body)
	}
	move(2)
	if a := g.get(secretName); a.status != 200 || string(g.open(a.body)) != "hunter2" {
		t.Errorf("resource on a third replica: %d %s", a.status, a.body)
	}
	if a := g.bearer(secretName); a.status != 200 {
		t.Errorf("token on a third replica: %d %s", a.status, a.body)
	}
	// A nonce yields one token, whichever replica it is.
	g.http.Jar.SetCookies(mustURL(t, g.base), cookies("kbs-session-id", opened))
	if a := g.attest(g.fake(doc), doc); a.status != 401 || a.err.Reason != "session-used" {
		t.Errorf("the same session on a third replica: %d %s", a.status, a.body)
	}
	var keys []string
	for i := range c.replicas {
		resp, err := g.http.Get(c.replicas[i].cfg.URL + "/.well-known/jwks.json")
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		keys = append(keys, string(b))
	}
	if keys[0] == "" || keys[0] != keys[1] || keys[1] != keys[2] {
		t.Errorf("signing keys differ: %q", keys)
	}
}

// tokenOnce uses an administrator's token on two replicas.
func (c *cluster) tokenOnce(t *testing.T) {
	p := trusteeapi.PathPrefix + "/info"
	token := c.admin.token("GET", p)
	a := *c.admin
	for i, want := range []int{200, 401, 401} {
		a.url = c.replicas[i].cfg.URL
		if status, b := a.raw("GET", p, token, nil); status != want {
			t.Errorf("use %d of a token: %d %s, want %d", i+1, status, b, want)
		}
	}
}

// collateral is imported at one replica and at hand at another, and so is its end.
func (c *cluster) collateral(t *testing.T) {
	const origin = "https://kdsintf.amd.com/vcek/v1/Milan/crl"
	at := func(i int) *adminClient {
		a := *c.admin
		a.url = c.replicas[i].cfg.URL
		return &a
	}
	until := func(want bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			if _, b := at(2).do("GET", "/collateral", nil); strings.Contains(string(b), origin) == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("another replica has it: %t", !want)
			}
		}
	}
	bundle := fmt.Sprintf(`{"version":1,"items":[{"origin":%q,"fetched":%q,"body":"AQID"}]}`, origin, time.Now().UTC().Format(time.RFC3339))
	if status, b := at(0).do("POST", "/collateral", []byte(bundle)); status != 200 {
		t.Fatalf("import: %d %s", status, b)
	}
	until(true)
	a := at(1)
	if status, b := a.raw("DELETE", trusteeapi.PathPrefix+"/collateral?origin="+origin, a.token("DELETE", trusteeapi.PathPrefix+"/collateral"), nil); status/100 != 2 && status != 404 {
		t.Fatalf("delete: %d %s", status, b)
	} else if status == 404 { // that replica has not heard of it yet
		time.Sleep(2 * refreshEvery)
		if status, b = a.raw("DELETE", trusteeapi.PathPrefix+"/collateral?origin="+origin, a.token("DELETE", trusteeapi.PathPrefix+"/collateral"), nil); status/100 != 2 {
			t.Fatalf("delete: %d %s", status, b)
		}
	}
	until(false)
}

// TestDatabaseGone takes the database away: typed 503, health says so, and nothing
// is let in; when it is back all goes on without a restart.
func TestDatabaseGone(t *testing.T) {
	pg := pgtest.Start(t)
	url := pg.Database("trustee")
	w := newWorld(t, func(c *Config) {
		c.Database, c.EnvelopeKey = url, filepath.Join(c.State, "envelope.key")
		if _, err := keyring.CreateFileKEK(c.EnvelopeKey); err != nil {
			t.Fatal(err)
		}
	})
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	attested := w.client("")
	attested.handshake(doc)
	open := w.client("")
	open.auth(fakeTEE, `""`)
	ready := func() int {
		resp, err := w.admin.http.Get(w.s.URL() + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if s := ready(); s != 200 {
		t.Errorf("readyz with a database: %d", s)
	}
	pg.Kill()
	for end := time.Now().Add(10 * time.Second); ready() == 200 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	check := func(what string, status int, reason, body string) {
		t.Helper()
		if status != 503 || reason != "store-unavailable" || strings.Contains(body, "/") && strings.Contains(body, "socket") {
			t.Errorf("%s without a database: %d %s", what, status, body)
		}
	}
	if s := ready(); s != 503 {
		t.Errorf("readyz without a database: %d", s)
	}
	for what, a := range map[string]*answer{
		"auth": w.client("").auth(fakeTEE, `""`), "attest": open.attest(open.fake(doc), doc), "resource": attested.get(secretName), "bearer": attested.bearer(secretName),
	} {
		check(what, a.status, a.err.Reason, string(a.body))
	}
	if open.token != "" {
		t.Error("a token without a database")
	}
	status, b := w.admin.do("PUT", "/namespaces/default/resources/"+secretName, []byte("x"))
	var e struct{ Reason string }
	_ = json.Unmarshal(b, &e)
	check("put", status, e.Reason, string(b))
	pg.Start()
	for end := time.Now().Add(10 * time.Second); ready() != 200 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	if a := open.attest(open.fake(doc), doc); a.status != 200 {
		t.Errorf("attest with the database back: %d %s", a.status, a.body)
	}
	if a := attested.get(secretName); a.status != 200 || string(attested.open(a.body)) != "hunter2" {
		t.Errorf("resource with the database back: %d %s", a.status, a.body)
	}
}

// TestDatabaseChangedFromOutside has the database's owner make itself an
// administrator, and bind a secret to a pod of its own.
func TestDatabaseChangedFromOutside(t *testing.T) {
	pg := pgtest.Start(t)
	url := pg.Database("trustee")
	w := newWorld(t, func(c *Config) {
		c.Database, c.EnvelopeKey = url, filepath.Join(c.State, "envelope.key")
		if _, err := keyring.CreateFileKEK(c.EnvelopeKey); err != nil {
			t.Fatal(err)
		}
	})
	doc, mine := document(t, "pod a"), document(t, "pod of the database's owner")
	w.bindSecret("default", secretName, "hunter2", doc)
	c := w.client("")
	c.handshake(mine)
	if a := c.get(secretName); a.status != 403 {
		t.Fatalf("before: %d", a.status)
	}
	pg.SQL("trustee", `UPDATE coffer.kv SET value = convert_to(replace(encode(value, 'escape'), '`+digestOf(doc)+`', '`+digestOf(mine)+`'), 'UTF8') WHERE bucket = 'ns/default/bindings'`)
	if a := c.get(secretName); a.status != 500 || a.err.Reason != "store-tampered" {
		t.Errorf("with a binding of the database's owner: %d %s", a.status, a.body)
	}
	pg.SQL("trustee", `UPDATE coffer.kv SET key = 'deadbeef' WHERE bucket = 'admins'`)
	status, b := w.admin.do("GET", "/info", nil)
	if status != 401 {
		t.Errorf("with an administrator moved: %d %s", status, b)
	}
	// Nothing can be read from the database's files.
	dump := pg.SQL("trustee", `SELECT count(*) FROM coffer.kv WHERE position('hunter2'::bytea IN value) > 0 OR position('PRIVATE KEY'::bytea IN value) > 0`)
	if dump != "0" {
		t.Errorf("%s values hold a secret in the clear", dump)
	}
}

func TestSharedEnvelopeKey(t *testing.T) {
	pg := pgtest.Start(t)
	url := pg.Database("trustee")
	w := newWorld(t, func(c *Config) {
		c.Database, c.EnvelopeKey = url, filepath.Join(c.State, "envelope.key")
		if _, err := keyring.CreateFileKEK(c.EnvelopeKey); err != nil {
			t.Fatal(err)
		}
	})
	c := w.cfg
	c.State, c.EnvelopeKey = t.TempDir(), filepath.Join(t.TempDir(), "none.key")
	if s, err := Start(t.Context(), c); err == nil {
		s.Close(t.Context())
		t.Error("started without the shared envelope key")
	} else if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "new-envelope-key") {
		t.Error(err)
	}
	if _, err := keyring.CreateFileKEK(c.EnvelopeKey); err != nil {
		t.Fatal(err)
	}
	if s, err := Start(t.Context(), c); err == nil {
		s.Close(t.Context())
		t.Error("started with an envelope key of its own")
	} else if !strings.Contains(err.Error(), "encrypted under key") {
		t.Error(err)
	}
	c = w.cfg
	c.LockWait = 50 * time.Millisecond
	if s, err := Start(t.Context(), c); err == nil {
		s.Close(context.Background())
		t.Error("two replicas in one folder")
	} else if !strings.Contains(err.Error(), "another trustee has it open") {
		t.Error(err)
	}
}
