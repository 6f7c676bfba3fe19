package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/appraisal"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/store"
)

// What a server in a process of its own is told.
const (
	childEnv    = "COFFER_TEST_TRUSTEE_STATE"
	databaseEnv = "COFFER_TEST_TRUSTEE_DATABASE"
	auditEnv    = "COFFER_TEST_TRUSTEE_AUDIT_IN_STORE"
	envelopeEnv = "COFFER_TEST_TRUSTEE_ENVELOPE_KEY"
	filesEnv    = "COFFER_TEST_TRUSTEE_OPEN_FILES"
)

// TestMain also is the server that TestKillNine kills, and each of TestReplicas.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := limitFiles(os.Getenv(filesEnv)); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		s, err := Start(context.Background(), apartFrom(os.Getenv(apartEnv), Config{
			State: dir, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Now: time.Now,
			Verifiers: map[string]appraisal.Factory{fakeTEE: fakeFactory},
			Database:  os.Getenv(databaseEnv), EnvelopeKey: os.Getenv(envelopeEnv), Audit: Audit{InStore: os.Getenv(auditEnv) != ""},
		}))
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		b, _ := json.Marshal(s.Client())
		fmt.Println(string(b))
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		s.Wait(ctx)
		if ctx.Err() == nil {
			os.Exit(1) // nobody asked it to end
		}
		stop()
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(grace); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child starts a server in a process of its own.
func child(t *testing.T, dir string, env ...string) (*exec.Cmd, trusteeapi.ClientConfig) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(append(os.Environ(), childEnv+"="+dir), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadBytes('\n')
	var c trusteeapi.ClientConfig
	if err != nil || json.Unmarshal(line, &c) != nil {
		t.Fatalf("child says %q, %v", line, err)
	}
	return cmd, c
}

// TestKillNine kills the server under load, several times, and looks for what it
// had acknowledged: secrets, attested sessions, audit records of releases.
func TestKillNine(t *testing.T) {
	dir := t.TempDir()
	acked := map[string]string{}
	var released atomic.Int64
	doc := document(t, "pod a")
	var session *rcar
	for round := range 3 {
		cmd, cfg := child(t, dir)
		a := newAdminClient(t, &Server{admin: cfg.AdminKeyPath, keys: keysOf(cfg)})
		a.url = cfg.URL
		if round == 0 {
			a.takeFakes("default")
		} else {
			checkAcked(t, a, acked)
			// A session attested before the kill goes on.
			session.base = cfg.URL + "/kbs/v0"
			if r := session.bearer(secretName); r.status != 200 {
				t.Errorf("round %d: token from before the kill: %d %s", round, r.status, r.body)
			}
			if r := session.get(secretName, "Cookie", "kbs-session-id="+session.nonce); r.status != 200 {
				t.Errorf("round %d: session from before the kill: %d %s", round, r.status, r.body)
			}
			released.Add(2)
		}
		a.put("default", secretName, "hunter2")
		a.must("POST", "/namespaces/default/bindings/"+secretName, trusteeapi.Binding{Initdata: []string{"sha256:" + digestOf(doc)}})
		session = newRCAR(t, cfg.CAPEM, cfg.URL)
		session.handshake(doc)
		session.nonce = session.cookieValue() // kept here, because the jar is the old port's

		var mu sync.Mutex
		var wg sync.WaitGroup
		stop := make(chan struct{})
		before := len(acked)
		for worker := range 4 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				load(t, cfg, session, fmt.Sprintf("r%d-w%d", round, worker), stop, &mu, acked, &released)
			}()
		}
		time.Sleep(300 * time.Millisecond) // of load, and as much more as a busy machine needs to show something
		for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			n := len(acked) - before
			mu.Unlock()
			if n >= 4 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("round %d: only %d secrets were acknowledged", round, n)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		close(stop)
		wg.Wait()
	}
	_, cfg := child(t, dir)
	a := newAdminClient(t, &Server{admin: cfg.AdminKeyPath, keys: keysOf(cfg)})
	a.url = cfg.URL
	checkAcked(t, a, acked)
	if len(acked) < 10 {
		t.Errorf("only %d secrets were acknowledged: the test shows nothing", len(acked))
	}
	if _, err := audit.Verify(filepath.Join(dir, "audit")); err != nil {
		t.Error(err)
	}
	fs, _ := filepath.Glob(filepath.Join(dir, "audit", "*.jsonl"))
	n := 0
	for _, f := range fs {
		b, _ := os.ReadFile(f)
		n += strings.Count(string(b), `"kind":"release"`)
	}
	if n < int(released.Load()) {
		t.Errorf("%d secrets left, %d audit records", released.Load(), n)
	}
	t.Logf("%d secrets acknowledged, %d released, %d audit records of releases", len(acked), released.Load(), n)
}

// load puts and reads until the server dies; what was answered is noted.
func load(t *testing.T, cfg trusteeapi.ClientConfig, session *rcar, prefix string, stop chan struct{}, mu *sync.Mutex, acked map[string]string, released *atomic.Int64) {
	a := newAdminClient(t, &Server{admin: cfg.AdminKeyPath, keys: keysOf(cfg)})
	a.url = cfg.URL
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		name, value := fmt.Sprintf("load/%s/%d", prefix, i), fmt.Sprintf("value %d", i)
		p := trusteeapi.PathPrefix + "/namespaces/default/resources/" + name
		if !quiet(a.http, "PUT", a.url+p, "Bearer "+a.token("PUT", p), value) {
			return
		}
		mu.Lock()
		acked[name] = value
		mu.Unlock()
		if !quiet(session.http, "GET", session.base+"/resource/"+secretName, "Bearer "+session.token, "") {
			return
		}
		released.Add(1)
	}
}

func checkAcked(t *testing.T, a *adminClient, acked map[string]string) {
	t.Helper()
	var l []trusteeapi.Resource
	_, b := a.do("GET", "/namespaces/default/resources", nil)
	if err := json.Unmarshal(b, &l); err != nil {
		t.Fatal(err)
	}
	have := map[string]int{}
	for _, r := range l {
		have[r.Name] = r.Size
	}
	for name, v := range acked {
		if have[name] != len(v) {
			t.Errorf("secret %s was acknowledged and is gone", name)
		}
	}
}

// faultyStore fails updates while it is told to.
type faultyStore struct {
	store.Store
	on atomic.Bool
}

var errDisk = errors.New("input/output error")

func (f *faultyStore) Update(ctx context.Context, fn func(store.Tx) error) error {
	if f.on.Load() {
		return errDisk
	}
	return f.Store.Update(ctx, fn)
}

func TestStoreFaultLetsNothingIn(t *testing.T) {
	var f *faultyStore
	w := newWorld(t, func(c *Config) {
		c.WrapStore = func(s store.Store) store.Store { f = &faultyStore{Store: s}; return f }
	})
	doc := document(t, "pod a")
	w.bindSecret("default", secretName, "hunter2", doc)
	c := w.client("")
	c.auth(fakeTEE, `""`)
	f.on.Store(true)
	if a := c.attest(c.fake(doc), doc); a.status != 500 || c.token != "" || strings.Contains(string(a.body), "input/output") {
		t.Errorf("attest with a broken store: %d %s", a.status, a.body)
	}
	if status, _ := w.admin.do("PUT", "/namespaces/default/resources/"+secretName, []byte("x")); status != 500 {
		t.Errorf("put with a broken store: %d", status)
	}
	f.on.Store(false)
	if a := c.attest(c.fake(doc), doc); a.status != 200 {
		t.Errorf("attest after the store has come back: %d %s", a.status, a.body)
	}
	if a := c.get(secretName); a.status != 200 || string(c.open(a.body)) != "hunter2" {
		t.Errorf("%d", a.status)
	}
}

func TestStateIsOneProcess(t *testing.T) {
	w := newWorld(t)
	c := w.cfg
	c.LockWait = 100 * time.Millisecond
	if s, err := Start(t.Context(), c); err == nil {
		s.Close(t.Context())
		t.Error("two trustees on one state")
	} else if !strings.Contains(err.Error(), "another trustee has it open") {
		t.Error(err)
	}
}

func TestLostEnvelopeKeyIsNamed(t *testing.T) {
	w := newWorld(t)
	w.stop()
	if err := os.Remove(filepath.Join(w.cfg.State, "envelope.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), w.cfg); err == nil || !strings.Contains(err.Error(), "envelope key") {
		t.Errorf("start without the envelope key: %v", err)
	}
}

func TestNothingReadableOnDisk(t *testing.T) {
	w := newWorld(t)
	doc := document(t, "pod a")
	const secret = "a-secret-that-is-easy-to-find"
	w.bindSecret("default", secretName, secret, doc)
	c := w.client("")
	c.handshake(doc)
	if a := c.get(secretName); a.status != 200 {
		t.Fatal(a.status)
	}
	w.stop()
	err := filepath.WalkDir(w.cfg.State, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %04o", p, st.Mode().Perm())
		}
		b, err := os.ReadFile(p)
		if strings.Contains(string(b), secret) {
			t.Errorf("%s holds the secret in the clear", p)
		}
		if !strings.HasSuffix(p, "admin.key") && strings.Contains(string(b), "PRIVATE KEY") {
			t.Errorf("%s holds a private key in the clear", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
