// Package e2e runs whole pods: coffer, coffer-node, coffer-trustee, QEMU,
// swtpm, the guest image and a registry, all real. It needs root and the built
// platform; make test sets COFFER_E2E=1 after it has made both.
package e2e

import (
	"bufio"
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
	"syscall"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/test/child"
)

// env is what all tests of this package share.
type env struct {
	bin        string   // folder of the binaries
	dir        string   // scratch folder of this test run
	registries string   // registries.conf that leads to the local mirror
	mirror     string   // host:port of the local mirror
	vars       []string // more of the environment of coffer commands
}

var shared *env

// patience bounds every wait: TCG on a busy machine is slow (a guest's start took
// 92 s with three at a time on two slow cores), a hang is longer.
const patience = 240 * time.Second

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "coffer-node" {
		os.Exit(hostileNode())
	}
	if os.Getenv("COFFER_E2E") != "1" {
		fmt.Println("e2e: skipped: needs COFFER_E2E=1, root and the built platform; make test sets it up")
		os.Exit(0)
	}
	os.Exit(func() int {
		e, cleanup, err := setUp()
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e: setting up:", err)
			return 1
		}
		defer cleanup()
		shared = e
		return m.Run()
	}())
}

func setUp() (*env, func(), error) {
	root, err := repoRoot()
	if err != nil {
		return nil, nil, err
	}
	e := &env{bin: filepath.Join(root, "bin")}
	if d := os.Getenv("COFFER_BIN"); d != "" { // other builds than make's
		e.bin = d
	}
	for _, b := range []string{"coffer", "coffer-node", "coffer-simhw", "coffer-trustee"} {
		if _, err := os.Stat(filepath.Join(e.bin, b)); err != nil {
			return nil, nil, fmt.Errorf("%s is missing: make build makes it", b)
		}
	}
	if e.dir, err = os.MkdirTemp("", "coffer-e2e-"); err != nil {
		return nil, nil, err
	}
	stop, err := e.startMirror(root)
	if err != nil {
		_ = os.RemoveAll(e.dir)
		return nil, nil, err
	}
	return e, func() { stop(); _ = os.RemoveAll(e.dir) }, nil
}

func repoRoot() (string, error) {
	d, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; d != "/"; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d, nil
		}
	}
	return "", errors.New("no go.mod above the test")
}

// startMirror serves the stand-in images (docs/standins.md).
func (e *env) startMirror(root string) (func(), error) {
	layouts := os.Getenv("COFFER_STANDINS")
	if layouts == "" {
		return nil, errors.New("COFFER_STANDINS names no folder of stand-in images: make standins makes it")
	}
	cmd := exec.Command(filepath.Join(root, "bin", "test-mirror"),
		"--layouts", layouts, "--writable", filepath.Join(e.dir, "pushed"), "--listen", "127.0.0.1:0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := child.Start(cmd, syscall.SIGKILL); err != nil {
		return nil, err
	}
	stop := func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	var ready struct{ Address, Registries string }
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("starting the mirror: %w", err)
	}
	e.mirror = ready.Address
	e.registries = filepath.Join(e.dir, "registries.conf")
	if err := os.WriteFile(e.registries, []byte(ready.Registries), 0o600); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// pod is a running coffer run.
type pod struct {
	t    *testing.T
	cmd  *exec.Cmd
	home string
	mu   sync.Mutex
	out  bytes.Buffer // stdout: the workload's lines
	err  bytes.Buffer // stderr: coffer's own
	done chan struct{}
	code int
}

// command prepares a coffer command with state of its own.
func (e *env) command(home string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(e.bin, "coffer"), args...)
	cmd.Env = append(os.Environ(), "COFFER_STATE="+filepath.Join(home, "state"), "COFFER_RUN_DIR="+filepath.Join(home, "run"))
	cmd.Env = append(cmd.Env, e.vars...)
	return cmd
}

// coffer runs a command to its end and gives stdout, stderr and the exit code.
func (e *env) coffer(t *testing.T, home string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := e.command(home, args...)
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	if err := cmd.Start(); err != nil {
		t.Fatalf("coffer %v: %v", args, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	err := cmd.Wait()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatalf("coffer %v: %v", args, err)
	}
	return out.String(), errb.String(), cmd.ProcessState.ExitCode()
}

// run starts coffer run in the background; the test's end kills it.
func (e *env) run(t *testing.T, home string, args ...string) *pod {
	t.Helper()
	args = append([]string{"run", "--tee", "tpm-sim", "--registries", e.registries}, args...)
	p := &pod{t: t, cmd: e.command(home, args...), home: home, done: make(chan struct{})}
	p.cmd.Stdout = lockedWriter{&p.mu, &p.out}
	p.cmd.Stderr = lockedWriter{&p.mu, &p.err}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("coffer %v: %v", args, err)
	}
	go func() {
		_ = p.cmd.Wait()
		p.code = p.cmd.ProcessState.ExitCode()
		close(p.done)
	}()
	t.Cleanup(func() {
		select {
		case <-p.done:
		default:
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-p.done:
			case <-time.After(20 * time.Second):
				_ = p.cmd.Process.Kill()
				<-p.done
			}
		}
		if t.Failed() {
			t.Logf("coffer %v\nstdout:\n%s\nstderr:\n%s", args, p.stdout(), p.stderr())
		}
	})
	return p
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

func (p *pod) stdout() string { p.mu.Lock(); defer p.mu.Unlock(); return p.out.String() }
func (p *pod) stderr() string { p.mu.Lock(); defer p.mu.Unlock(); return p.err.String() }

// waitOutput waits until the workload has printed want.
func (p *pod) waitOutput(want string) {
	p.t.Helper()
	p.waitFor(fmt.Sprintf("the output %q", want), func() bool { return strings.Contains(p.stdout(), want) })
}

// waitFor polls ok until it holds or the pod has ended.
func (p *pod) waitFor(what string, ok func() bool) {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		select {
		case <-p.done:
			if ok() {
				return
			}
			p.t.Fatalf("coffer run ended with %d while waiting for %s", p.code, what)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("no %s within %s; %s", what, patience, p.consoles())
		}
	}
}

// consoles gives what the guests have printed, from its end.
func (p *pod) consoles() string {
	files, _ := filepath.Glob(filepath.Join(p.home, "run", "*", nodeapi.ConsoleLog))
	out := fmt.Sprintf("%d consoles", len(files))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			out += fmt.Sprintf("\n%v", err)
		}
		out += fmt.Sprintf("\n%s:\n%s", f, b[max(0, len(b)-4096):])
	}
	return out
}

// wait gives the exit code.
func (p *pod) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("coffer run did not end within %s", patience)
	}
	return p.code
}

// stop asks for an end without a grace period.
func (p *pod) stop() int {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	time.Sleep(200 * time.Millisecond)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	return p.wait()
}

// freePort gives a TCP port that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// get waits until url answers and gives the body.
func (p *pod) get(url string) string {
	p.t.Helper()
	var body string
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	p.waitFor(url, func() bool {
		resp, err := c.Get(url)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		body = string(b)
		return err == nil && resp.StatusCode == http.StatusOK
	})
	return body
}
