package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
)

// replica is one of several trustees, each a process with a folder of its own.
type replica struct {
	dir string
	cmd *exec.Cmd
	cfg trusteeapi.ClientConfig
}

// cluster is three replicas on one database behind a balancer.
type cluster struct {
	t        *testing.T
	pg       *pgtest.Server
	db       string
	key      string
	replicas []*replica
	front    *balancer
	admin    *adminClient
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, pg: pgtest.Start(t), key: filepath.Join(t.TempDir(), "envelope.key")}
	c.db = c.pg.Database("trustee")
	if _, err := keyring.CreateFileKEK(c.key); err != nil {
		t.Fatal(err)
	}
	c.front = newBalancer(t)
	var wg sync.WaitGroup
	for range 3 {
		c.replicas = append(c.replicas, &replica{dir: t.TempDir()})
	}
	for _, r := range c.replicas { // at once, on an empty database
		wg.Go(func() { c.start(r) })
	}
	wg.Wait()
	c.balance()
	for _, r := range c.replicas {
		if _, err := os.Stat(filepath.Join(r.dir, "admin.key")); err == nil {
			if c.admin != nil {
				t.Fatal("two replicas have made an administrator")
			}
			c.admin = c.adminOf(r)
		}
	}
	if c.admin == nil {
		t.Fatal("no replica has made an administrator")
	}
	c.admin.url = c.front.url()
	c.admin.takeFakes("default")
	return c
}

func (c *cluster) adminOf(r *replica) *adminClient {
	a := newAdminClient(c.t, &Server{admin: r.cfg.AdminKeyPath, keys: keysOf(r.cfg)})
	a.url = r.cfg.URL
	return a
}

func (c *cluster) start(r *replica) {
	r.cmd, r.cfg = child(c.t, r.dir, databaseEnv+"="+c.db, envelopeEnv+"="+c.key)
}

func (c *cluster) balance(without ...*replica) {
	var to []string
next:
	for _, r := range c.replicas {
		for _, w := range without {
			if w == r {
				continue next
			}
		}
		to = append(to, strings.TrimPrefix(r.cfg.URL, "https://"))
	}
	c.front.set(to)
}

// wait has a process end by itself.
func (r *replica) wait(t *testing.T) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- r.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("a replica's end: %v", err)
		}
	case <-time.After(15 * time.Second):
		r.cmd.Process.Kill()
		t.Error("a replica does not end")
	}
}

// balancer passes connections on, in turn, to the next one that answers, as load
// balancers of layer 4 do. It knows nothing of requests.
type balancer struct {
	ln   net.Listener
	mu   sync.Mutex
	to   []string
	turn int
}

func newBalancer(t *testing.T) *balancer {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	b := &balancer{ln: ln}
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			go b.pass(in)
		}
	}()
	return b
}

func (b *balancer) url() string { return "https://" + b.ln.Addr().String() }

func (b *balancer) set(to []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.to = to
}

func (b *balancer) pass(in net.Conn) {
	defer in.Close()
	b.mu.Lock()
	to := append(append([]string{}, b.to[b.turn%len(b.to):]...), b.to[:b.turn%len(b.to)]...)
	b.turn++
	b.mu.Unlock()
	for _, addr := range to {
		out, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			continue
		}
		done := make(chan struct{})
		go func() {
			io.Copy(out, in)
			out.(*net.TCPConn).CloseWrite()
			close(done)
		}()
		io.Copy(in, out)
		in.Close()
		out.Close()
		<-done
		return
	}
}

// published is a client that tries again as the published one does: a handshake five
// times, a second apart (here less, so that it is the harder test), a resource
// three times with a new handshake after each 401.
type published struct {
	*rcar
	doc      []byte
	between  time.Duration
	attempts int // most that a handshake has needed
}

func (c *cluster) client(doc []byte) *published {
	return &published{rcar: newRCAR(c.t, c.replicas[0].cfg.CAPEM, c.front.url()), doc: doc, between: 300 * time.Millisecond}
}

func (g *published) send(method, path, body string) (int, []byte, error) {
	req, err := http.NewRequest(method, g.base+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	resp, err := g.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

func (g *published) attestOnce() error {
	status, b, err := g.send("POST", "/auth", `{"version":"0.4.0","tee":"`+fakeTEE+`","extra-params":""}`)
	if err != nil || status != 200 {
		return fmt.Errorf("auth: %d %s: %w", status, b, err)
	}
	var ch struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal(b, &ch); err != nil {
		return err
	}
	g.nonce = ch.Nonce
	doc, _ := json.Marshal(string(g.doc))
	body := fmt.Sprintf(`{"init-data":{"format":"toml","body":%s},"runtime-data":{"nonce":"%s","tee-pubkey":%s},"tee-evidence":{"primary_evidence":%s,"additional_evidence":""}}`,
		doc, g.nonce, g.jwk(), g.fake(g.doc))
	if status, b, err = g.send("POST", "/attest", body); err != nil || status != 200 {
		return fmt.Errorf("attest: %d %s: %w", status, b, err)
	}
	return nil
}

func (g *published) handshake() (err error) {
	for n := 1; n <= 5; n++ {
		if err = g.attestOnce(); err == nil {
			g.attempts = max(g.attempts, n)
			return nil
		}
		time.Sleep(g.between)
	}
	return err
}

func (g *published) resource(name string) ([]byte, error) {
	var last error
	for range 3 {
		status, b, err := g.send("GET", "/resource/"+name, "")
		switch {
		case err != nil:
			return nil, err
		case status == 200:
			return g.open(b), nil
		case status != 401:
			return nil, fmt.Errorf("resource: %d %s", status, b)
		}
		last = fmt.Errorf("resource: %d %s", status, b)
		if err := g.handshake(); err != nil {
			return nil, err
		}
	}
	return nil, last
}

// traffic is guests and an administrator at work until stop.
type traffic struct {
	handshakes, released, puts, failed atomic.Int64
	transport                          atomic.Int64 // resources that a dying connection cost
	strict                             atomic.Bool  // a lost connection counts as a failure
	worst                              atomic.Int64

	mu    sync.Mutex
	acked map[string]string
	stop  chan struct{}
	wg    sync.WaitGroup
}

func (c *cluster) traffic(doc []byte) *traffic {
	tr := &traffic{acked: map[string]string{}, stop: make(chan struct{})}
	tr.strict.Store(true)
	ended := func() bool {
		select {
		case <-tr.stop:
			return true
		default:
			return false
		}
	}
	for range 4 {
		tr.wg.Go(func() {
			for !ended() {
				g := c.client(doc)
				if err := g.handshake(); err != nil {
					tr.failed.Add(1)
					c.t.Errorf("a handshake failed: %v", err)
					continue
				}
				tr.handshakes.Add(1)
				tr.worst.Store(max(tr.worst.Load(), int64(g.attempts)))
				for range 3 {
					switch b, err := g.resource(secretName); {
					case err == nil && string(b) == "hunter2":
						tr.released.Add(1)
					case err != nil && !tr.strict.Load():
						tr.transport.Add(1)
					default:
						tr.failed.Add(1)
						c.t.Errorf("a resource failed: %q, %v", b, err)
					}
				}
				g.http.CloseIdleConnections()
			}
		})
	}
	tr.wg.Go(func() {
		a := *c.admin
		for i := 0; !ended(); i++ {
			name := fmt.Sprintf("load/ha/%d", i)
			p := trusteeapi.PathPrefix + "/namespaces/default/resources/" + name
			if quiet(a.http, "PUT", a.url+p, "Bearer "+a.token("PUT", p), name) {
				tr.mu.Lock()
				tr.acked[name] = name
				tr.mu.Unlock()
				tr.puts.Add(1)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	return tr
}

// more waits until so much more has been done.
func (tr *traffic) more(t *testing.T, n int64) {
	t.Helper()
	want, end := tr.handshakes.Load()+n, time.Now().Add(20*time.Second)
	for tr.handshakes.Load() < want {
		if time.Now().After(end) {
			t.Fatal("no handshakes get through any more")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestReplicas has three replicas on one real PostgreSQL under load: a rolling
// restart without a failed request, a kill -9 without a failed handshake, and a
// database that restarts; nothing that was acknowledged is lost, and each
// replica's audit chain is whole.
func TestReplicas(t *testing.T) {
	c := newCluster(t)
	doc := document(t, "pod a")
	c.admin.put("default", secretName, "hunter2")
	c.admin.must("POST", "/namespaces/default/bindings/"+secretName, trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(doc)}})
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
	releases := 0
	for i, r := range c.replicas {
		dir := filepath.Join(r.dir, "audit")
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
