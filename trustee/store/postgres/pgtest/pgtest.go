// Package pgtest runs PostgreSQL servers for tests: the real one of Debian's
// package (scripts/deps.sh installs it), as an ordinary user, in a folder of its
// own, reached through a Unix socket alone. A missing package fails the test.
//
// Trust zone: tests only.
package pgtest

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nobody is whom the server runs as where the test is root, which PostgreSQL
// refuses to be.
const nobody = 65534

// Server is a database server that a test may stop, kill and start again.
type Server struct {
	t    testing.TB
	bin  string
	dir  string
	data string
	port string // of the socket's name too; "": the default
	cmd  *exec.Cmd
	log  *os.File
}

// Start makes and starts a server. It ends with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "coffer-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return StartIn(t, dir)
}

// StartIn is Start with the data in a folder of the caller's, which may be small.
func StartIn(t testing.TB, dir string) *Server {
	t.Helper()
	s := &Server{t: t, bin: programs(t), dir: dir, data: filepath.Join(dir, "data")}
	if os.Getuid() == 0 {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	init := s.command("initdb", "--pgdata="+s.data, "--username=coffer", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions", "--wal-segsize=1")
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	conf := fmt.Sprintf("listen_addresses = ''\nunix_socket_directories = '%s'\nmax_connections = 60\nshared_buffers = 16MB\nmin_wal_size = 2MB\nmax_wal_size = 16MB\n", dir)
	f, err := os.OpenFile(filepath.Join(s.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(conf)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if s.log, err = os.OpenFile(filepath.Join(t.TempDir(), "postgres.log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			if b, err := os.ReadFile(s.log.Name()); err == nil {
				t.Logf("the database's log ends:\n%s", b[max(0, len(b)-4000):])
			}
		}
		s.log.Close()
	})
	s.Start()
	return s
}

// programs finds the server's programs, of the newest version there is.
func programs(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		t.Fatal("no PostgreSQL server: scripts/deps.sh installs Debian's package")
	}
	slices.SortFunc(found, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return filepath.Dir(found[len(found)-1])
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	return s.as(filepath.Join(s.bin, name), args...)
}

// as makes a command of the server's user.
func (s *Server) as(path string, args ...string) *exec.Cmd {
	c := exec.Command(path, args...)
	c.Dir = s.dir
	c.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin", "TZ=UTC"}
	// SIGQUIT is an immediate shutdown, children included.
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Getuid() == 0 {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return c
}

// Start starts the server again.
func (s *Server) Start() {
	s.t.Helper()
	s.cmd = s.command("postgres", "-D", s.data)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; {
		out, err := s.command("pg_isready", "-h", s.dir, "-p", cmp.Or(s.port, "5432"), "-U", "coffer", "-d", "postgres").CombinedOutput()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			b, _ := os.ReadFile(s.log.Name())
			s.t.Fatalf("the database does not start: %s\n%s", out, b)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ListenTLS has the server listen on a TCP address too, with TLS and a password alone,
// and starts it anew. The certificate and its key are PEM.
func (s *Server) ListenTLS(host, port, cert, key string) {
	s.t.Helper()
	s.Stop()
	for name, text := range map[string]string{"server.crt": cert, "server.key": key} {
		p := filepath.Join(s.data, name)
		err := os.WriteFile(p, []byte(text), 0o600)
		if err == nil && os.Getuid() == 0 {
			err = os.Chown(p, nobody, nobody)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"postgresql.conf": fmt.Sprintf("listen_addresses = '%s'\nport = %s\nssl = on\n", host, port),
		"pg_hba.conf":     "local all all trust\nhostssl all all all scram-sha-256\n",
	} {
		p := filepath.Join(s.data, name)
		old, err := os.ReadFile(p)
		if err == nil && name == "pg_hba.conf" {
			old = nil
		}
		if err == nil {
			err = os.WriteFile(p, append(old, text...), 0o600)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	s.port = port
	s.Start()
}

// Stop ends the server as an administrator does: what runs is rolled back.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

// Kill has the server die at once, as by a crash: it recovers at its next start.
func (s *Server) Kill() { s.end(syscall.SIGQUIT) }

func (s *Server) end(how syscall.Signal) {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(how)
	done := make(chan struct{})
	go func() { _ = s.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-done
	}
	s.cmd = nil
}

// Freeze stops all of the server's processes without ending them, and Thaw has
// them go on: a server that hangs.
func (s *Server) Freeze() { s.signalAll(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (s *Server) Thaw() { s.signalAll(syscall.SIGCONT) }

func (s *Server) signalAll(sig syscall.Signal) {
	s.t.Helper()
	for _, p := range s.pids() {
		_ = syscall.Kill(p, sig)
	}
}

// pids gives the server's processes.
func (s *Server) pids() []int {
	s.t.Helper()
	pids := []int{s.cmd.Process.Pid}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pids[0], pids[0]))
	if err != nil {
		s.t.Fatal(err)
	}
	for f := range bytes.FieldsSeq(b) {
		n := 0
		if _, err := fmt.Sscan(string(f), &n); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

// FullDisk has every file of the server that would grow above size fail to, in all
// its processes and those to come; Room undoes it.
func (s *Server) FullDisk(size uint64) { s.limit(fmt.Sprint(size)) }

// Room undoes FullDisk.
func (s *Server) Room() { s.limit("unlimited") }

func (s *Server) limit(size string) {
	s.t.Helper()
	for _, p := range s.pids() {
		// The hard limit stays, so that it can be undone.
		if out, err := s.as("/usr/bin/prlimit", "--pid", fmt.Sprint(p), "--fsize="+size+":unlimited").CombinedOutput(); err != nil {
			s.t.Fatalf("prlimit: %v: %s", err, out)
		}
	}
}

// SQL runs statements in a database as its owner.
func (s *Server) SQL(database, statements string) string {
	s.t.Helper()
	c := s.command("psql", "-h", s.dir, "-p", cmp.Or(s.port, "5432"), "-U", "coffer", "-d", database, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statements)
	out, err := c.CombinedOutput()
	if err != nil {
		s.t.Fatalf("psql: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// Database makes an empty database and gives its connection URL.
func (s *Server) Database(name string) string {
	s.t.Helper()
	s.SQL("postgres", "CREATE DATABASE "+name)
	return s.URL(name)
}

// Dir is the folder of the server's Unix socket.
func (s *Server) Dir() string { return s.dir }

// URL gives a database's connection URL.
func (s *Server) URL(name string) string {
	return fmt.Sprintf("postgres:///%s?host=%s&port=%s&user=coffer", name, s.dir, cmp.Or(s.port, "5432"))
}
