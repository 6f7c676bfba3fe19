package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
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

// rss gives the server's resident memory, in bytes, anonymous what of it are not
// pages of files, which the machine takes back when it needs them.
func (s *server) rss() int64       { return s.status("VmRSS:") }
func (s *server) anonymous() int64 { return s.status("RssAnon:") }

func (s *server) status(name string) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(l, name); ok {
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

// metrics gives the samples of the operators' listener by name with labels.
func (s *server) metrics() (map[string]float64, error) {
	resp, err := http.Get(s.ops + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) == 2 {
			if v, err := strconv.ParseFloat(f[1], 64); err == nil {
				out[f[0]] = v
			}
		}
	}
	return out, nil
}

// metric gives one counter.
func (s *server) metric(name string) (float64, error) {
	all, err := s.metrics()
	if err != nil {
		return 0, err
	}
	v, ok := all[name]
	if !ok {
		return 0, errors.New("no metric " + name)
	}
	return v, nil
}

// histogram counts durations up to each bound, in seconds.
type histogram map[float64]float64

// durations gives the server's own histograms of how long requests took, by route.
func (s *server) durations() (map[string]histogram, error) {
	all, err := s.metrics()
	if err != nil {
		return nil, err
	}
	out := map[string]histogram{}
	for name, v := range all {
		rest, ok := strings.CutPrefix(name, `coffer_trustee_request_duration_seconds_bucket{route="`)
		route, bound, ok2 := strings.Cut(rest, `",le="`)
		if !ok || !ok2 {
			continue
		}
		le, err := strconv.ParseFloat(strings.TrimSuffix(bound, `"}`), 64) // "+Inf" too
		if err != nil {
			return nil, err
		}
		if out[route] == nil {
			out[route] = histogram{}
		}
		out[route][le] = v
	}
	return out, nil
}

// since gives what was counted after before.
func (h histogram) since(before histogram) histogram {
	out := histogram{}
	for le, n := range h {
		out[le] = n - before[le]
	}
	return out
}

// quantile gives the bound below which that share of all lies.
func (h histogram) quantile(q float64) time.Duration {
	for _, le := range slices.Sorted(maps.Keys(h)) {
		if h[le] >= q*h[math.Inf(1)] && !math.IsInf(le, 1) {
			return time.Duration(le * float64(time.Second))
		}
	}
	return math.MaxInt64
}
