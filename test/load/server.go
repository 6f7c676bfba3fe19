package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// server is the trustee, a process of its own.
type server struct {
	cmd    *exec.Cmd
	dir    string
	cfg    trusteeapi.ClientConfig
	client *trusteeclient.Client
	ops    string
	log    bytes.Buffer
}

func start(ctx context.Context, bin, dir, database string) (*server, error) {
	s := &server{dir: filepath.Join(dir, "state")}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s.ops = "http://127.0.0.1:" + port
	args := []string{
		"serve", "--state", s.dir, "--simulated-namespace", "sim", "--ops-listen", "127.0.0.1:" + port, "--die-with-parent",
		// One machine is every client here.
		"--rate-peer", "-1", "--rate-namespace", "-1", "--peer-connections", "100000", "--limit", "secrets=2000000", "--limit", "bindings=2000000",
	}
	if database != "" {
		args = append(args, "--database", database, "--envelope-key", filepath.Join(dir, "envelope.key"))
		if out, err := exec.Command(bin, "new-envelope-key", filepath.Join(dir, "envelope.key")).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
	}
	s.cmd = exec.Command(bin, args...)
	s.cmd.Stderr = &s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &s.cfg)
	}
	if err == nil {
		s.client, err = trusteeclient.DialConfig(ctx, &s.cfg)
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("starting the trustee: %w: %s", err, s.log.String())
	}
	return s, nil
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
}

// cpu gives the CPU time that the server has used.
func (s *server) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var ticks int64
	for _, i := range []int{11, 12} { // utime, stime
		n, _ := strconv.ParseInt(f[i], 10, 64)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// rss gives the server's resident memory, in bytes.
func (s *server) rss() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(l, "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// disk gives the size of the state.
func (s *server) disk() (n int64) {
	_ = filepath.Walk(s.dir, func(_ string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().IsRegular() {
			n += fi.Size()
		}
		return nil
	})
	return n
}

// metric gives one counter of the operators' listener.
func (s *server) metric(name string) (float64, error) {
	resp, err := http.Get(s.ops + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) == 2 && f[0] == name {
			return strconv.ParseFloat(f[1], 64)
		}
	}
	return 0, errors.New("no metric " + name)
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
