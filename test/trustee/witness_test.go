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

// The binaries, from the flag of serve to the owner's check of what the witness kept.
func TestWitnessedLog(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./cmd/coffer", "./cmd/coffer-trustee")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v: %s", err, out)
	}
	dir := t.TempDir()
	env := append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "COFFER_STATE="+filepath.Join(dir, "state"), "HOME="+dir)
	socket := filepath.Join(dir, "log")
	k := newKeeper(t, socket)
	server := exec.Command(filepath.Join(bin, "coffer-trustee"), "serve", "--die-with-parent",
		"--audit-witness", "syslog+unix://"+socket, "--audit-witness-required", "2", "--audit-checkpoint-every", "200ms")
	server.Env, server.Dir = env, dir
	ready, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	stop := func() {
		once.Do(func() {
			_ = server.Process.Signal(os.Interrupt)
			_ = server.Wait()
		})
	}
	t.Cleanup(stop)
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the trustee does not start: %v", err)
	}
	coffer := func(stdin string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "coffer"), args...)
		cmd.Env, cmd.Dir, cmd.Stdin = env, dir, strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
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
