package server

import (
	"encoding/json"
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
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
)

// replica is one of several trustees, each a process with a folder of its own.
type replica struct {
	dir     string
	inStore bool // keeps its audit log in the database
	cmd     *exec.Cmd
	cfg     trusteeapi.ClientConfig
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
	for i := range 3 {
		c.replicas = append(c.replicas, &replica{dir: t.TempDir(), inStore: i == 1})
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
	env := []string{databaseEnv + "=" + c.db, envelopeEnv + "=" + c.key}
	if r.inStore {
		env = append(env, auditEnv+"=1")
	}
	r.cmd, r.cfg = child(c.t, r.dir, env...)
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
