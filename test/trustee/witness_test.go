package trustee_test

import (
	"bufio"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/bolt"
)

// keeper is a syslog receiver on a Unix socket that keeps each message as a line.
type keeper struct {
	mu   sync.Mutex
	file string
	n    int
}

func newKeeper(t *testing.T, socket string) *keeper {
	t.Helper()
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	k := &keeper{file: filepath.Join(t.TempDir(), "received.log")}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go k.take(c)
		}
	}()
	return k
}

func (k *keeper) take(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		size, err := r.ReadString(' ')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSpace(size))
		if err != nil || n > 16<<10 {
			return
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return
		}
		k.mu.Lock()
		f, err := os.OpenFile(k.file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.Write(append(b, '\n'))
			f.Close()
		}
		if err == nil {
			k.n++
		}
		k.mu.Unlock()
	}
}

func (k *keeper) wait(t *testing.T, n int) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		k.mu.Lock()
		have := k.n
		k.mu.Unlock()
		if have >= n {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("the witness got %d checkpoints, want %d", have, n)
		}
	}
}

// commands are the programs, with a folder of their own for everything.
type commands struct {
	t        *testing.T
	bin, dir string
	env      []string
}

func newCommands(t *testing.T) *commands {
	t.Helper()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./cmd/coffer", "./cmd/coffer-trustee")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v: %s", err, out)
	}
	dir := t.TempDir()
	return &commands{t, bin, dir, append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "COFFER_STATE="+filepath.Join(dir, "state"), "HOME="+dir)}
}

// serve starts a trustee, and gives what stops it.
func (c *commands) serve(args ...string) func() {
	c.t.Helper()
	_, stop := c.server(args...)
	return stop
}

// server is serve that gives the process as well.
func (c *commands) server(args ...string) (*os.Process, func()) {
	c.t.Helper()
	server := exec.Command(filepath.Join(c.bin, "coffer-trustee"), append([]string{"serve", "--die-with-parent"}, args...)...)
	server.Env, server.Dir = c.env, c.dir
	ready, err := server.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		c.t.Fatal(err)
	}
	var once sync.Once
	stop := func() {
		once.Do(func() {
			_ = server.Process.Signal(os.Interrupt)
			_ = server.Wait()
		})
	}
	c.t.Cleanup(stop)
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		c.t.Fatalf("the trustee does not start: %v", err)
	}
	return server.Process, stop
}

func (c *commands) coffer(stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(c.t.Context(), filepath.Join(c.bin, "coffer"), args...)
	cmd.Env, cmd.Dir, cmd.Stdin = c.env, c.dir, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The binaries, from the flag of serve to the owner's check of what the witness kept.
func TestWitnessedLog(t *testing.T) {
	c := newCommands(t)
	dir, bin, coffer := c.dir, c.bin, c.coffer
	socket := filepath.Join(dir, "log")
	k := newKeeper(t, socket)
	stop := c.serve("--audit-witness", "syslog+unix://"+socket, "--audit-witness-required", "2", "--audit-checkpoint-every", "200ms")
	k.wait(t, 1)
	if out, err := coffer("secret", "secret", "put", "default/db/password", "--namespace", "default"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	k.wait(t, 2)
	out, err := coffer("", "audit", "verify", "--witness", k.file, "--output", "json")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var r struct {
		Witnessed int
		Witness   auditlog.Signed
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Witnessed < 2 {
		t.Fatalf("%v: %s", err, out)
	}
	if b, _ := pem.Decode([]byte(r.Witness.PublicKey)); b == nil {
		t.Fatalf("no key in %s", out)
	}
	stop()
	key := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(key, []byte(r.Witness.PublicKey), 0o600); err != nil {
		t.Fatal(err)
	}
	audit := filepath.Join(dir, "state", "trustee", "audit")
	check := func() (string, error) {
		return coffer("", "audit", "verify", "--witness", k.file, "--dir", audit, "--key", key)
	}
	if out, err := check(); err != nil || !strings.Contains(out, "chain whole") {
		t.Fatalf("%v: %s", err, out)
	}
	// Who owns the trustee's disk and key cuts off the log and its checkpoints.
	for _, pattern := range []string{"audit-*.jsonl", "checkpoints.jsonl"} {
		names, err := filepath.Glob(filepath.Join(audit, pattern))
		if err != nil || len(names) != 1 {
			t.Fatal(names, err)
		}
		b, err := os.ReadFile(names[0])
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(b), "\n")
		if err := os.WriteFile(names[0], []byte(first+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var code *exec.ExitError
	if out, err := check(); !errors.As(err, &code) || code.ExitCode() != 125 || !strings.Contains(out, "cut off") {
		t.Errorf("a log that was cut off: %v: %s", err, out)
	}
	if err := os.WriteFile(k.file, []byte("nothing of a trustee's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := check(); !errors.As(err, &code) || code.ExitCode() != 120 {
		t.Errorf("a witness with nothing: %v: %s", err, out)
	}
	// A flag of a witness without the witness.
	bad := exec.CommandContext(t.Context(), filepath.Join(bin, "coffer-trustee"), "serve", "--audit-witness-ca", key)
	if out, err := bad.CombinedOutput(); err == nil || !strings.Contains(string(out), "comes after the --audit-witness") {
		t.Errorf("%v: %s", err, out)
	}
}

// Logs in the store: each start has one, all can be checked by whoever asks, and one
// that was taken out of the store is missed by what the witness kept.
func TestLogsInStore(t *testing.T) {
	c := newCommands(t)
	socket := filepath.Join(c.dir, "log")
	k := newKeeper(t, socket)
	args := []string{"--audit-log", "store", "--audit-witness", "syslog+unix://" + socket, "--audit-checkpoint-every", "200ms"}
	var stop func()
	for i := range 2 {
		stop = c.serve(args...)
		if out, err := c.coffer("secret", "secret", "put", "default/db/password", "--namespace", "default"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		k.wait(t, 2*(i+1)) // the start, and the secret
		if i == 0 {
			stop()
		}
	}
	out, err := c.coffer("", "audit", "logs", "--output", "json")
	var logs []trusteeapi.AuditLog
	if err != nil || json.Unmarshal([]byte(out), &logs) != nil || len(logs) != 2 || logs[0].Own || !logs[1].Own || logs[0].Records < 2 {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := c.coffer("", "audit", "verify", "--all", "--witness", k.file); err != nil || strings.Count(out, "chain whole") != 2 {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := c.coffer("", "audit", "verify", "--log", logs[0].ID[:12], "--witness", k.file, "--replicas"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var code *exec.ExitError
	if out, err := c.coffer("", "audit", "verify", "--log", "none"); !errors.As(err, &code) || code.ExitCode() != 120 {
		t.Errorf("a log that is not there: %v: %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(c.dir, "state", "trustee", "audit")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("files of a log beside the store: %v", err)
	}
	stop()
	takeOldestLog(t, filepath.Join(c.dir, "state", "trustee"))
	c.serve(args...)
	if out, err := c.coffer("", "audit", "verify", "--all", "--witness", k.file); !errors.As(err, &code) || code.ExitCode() != 125 || !strings.Contains(out, logs[0].ID[:16]) {
		t.Errorf("a log was deleted: %v: %s", err, out)
	}
}

// takeOldestLog deletes a log from a store, as who owns it can.
func takeOldestLog(t *testing.T, state string) {
	t.Helper()
	inStore(t, state, func(tx store.Tx) error {
		var oldest string
		var began time.Time
		if err := tx.Scan("audit-logs", "", func(key string, value []byte) (bool, error) {
			var h struct{ Began time.Time }
			if err := json.Unmarshal(value, &h); err != nil {
				return false, err
			}
			if oldest == "" || h.Began.Before(began) {
				oldest, began = key, h.Began
			}
			return true, nil
		}); err != nil {
			return err
		}
		if oldest == "" {
			return errors.New("no log")
		}
		return tx.Delete("audit-logs", oldest)
	})
}

// inStore changes the store of a trustee that is stopped.
func inStore(t *testing.T, state string, fn func(store.Tx) error) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(state, "*.db"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	s, err := bolt.Open(names[0], time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}
