// Command bench measures whole runs: how long a pod takes from `coffer run` to
// its first line, against a bare boot of the same QEMU, firmware, vTPM, kernel
// and memory, in one go and alternating, so that a noisy machine disturbs both.
// docs/performance.md says how to read the figures; make bench runs it.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/api/platform"
)

type config struct {
	bin, platform, pod, registries string
	bareInitrd                     string
	runs                           int
	memory                         int
	extra                          []string
	dir                            string
}

func main() {
	var c config
	var extra string
	flag.StringVar(&c.bin, "bin", "bin", "folder of the binaries")
	flag.StringVar(&c.platform, "platform", "", "platform.json")
	flag.StringVar(&c.pod, "pod", "", "pod manifest whose first line ends a run")
	flag.StringVar(&c.registries, "registries", "", "registries.conf for the pod's images")
	flag.StringVar(&c.bareInitrd, "bare-initrd", "", "initrd of the bare init (default: beside platform.json)")
	flag.IntVar(&c.runs, "runs", 5, "runs of each")
	flag.IntVar(&c.memory, "memory", 256, "MiB of the bare VM: the pod's own size")
	flag.StringVar(&extra, "run-args", "", "further arguments of coffer run, separated by spaces")
	flag.Parse()
	c.extra = strings.Fields(extra)
	if err := c.run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (c *config) run(w io.Writer) error {
	p, err := platform.Load(c.platform)
	if err != nil {
		return err
	}
	if c.bareInitrd == "" {
		c.bareInitrd = filepath.Join(filepath.Dir(c.platform), "initrd-bare.cpio")
	}
	if c.dir, err = os.MkdirTemp("", "coffer-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(c.dir)
	var bare, full []float64
	phases := map[string][]float64{}
	var order []string
	for i := range c.runs {
		b, err := c.bareBoot(p, i)
		if err != nil {
			return fmt.Errorf("bare boot: %w", err)
		}
		bare = append(bare, b)
		f, t, err := c.fullRun(i)
		if err != nil {
			return fmt.Errorf("coffer run: %w", err)
		}
		full = append(full, f)
		for _, ph := range t {
			if _, ok := phases[ph.Name]; !ok {
				order = append(order, ph.Name)
			}
			phases[ph.Name] = append(phases[ph.Name], ph.Seconds)
		}
		fmt.Fprintf(w, "run %d: bare %.2f s, coffer run %.2f s, difference %.2f s\n", i+1, b, f, f-b)
	}
	var diff []float64
	for i := range bare {
		diff = append(diff, full[i]-bare[i])
	}
	fmt.Fprintf(w, "\n%-44s %8s %8s %8s\n", "seconds", "min", "median", "max")
	row := func(name string, v []float64) {
		fmt.Fprintf(w, "%-44s %8.2f %8.2f %8.2f\n", name, slices.Min(v), median(v), slices.Max(v))
	}
	row("T_bare: request to the bare init's line", bare)
	row("T_run: coffer run to the workload's line", full)
	row("T_run - T_bare", diff)
	for _, n := range order {
		row("  "+n, phases[n])
	}
	return nil
}

// bareBoot gives the seconds from the request to the bare init's line.
func (c *config) bareBoot(p *platform.Platform, i int) (float64, error) {
	spec, err := p.Spec(launch.TPMSim, platform.Sim, c.memory, 1)
	if err != nil {
		return 0, err
	}
	spec.Initrd = launch.File{Path: c.bareInitrd}
	dir := filepath.Join(c.dir, fmt.Sprintf("bare-%d", i))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, err
	}
	req, err := json.Marshal(nodeapi.Request{ID: filepath.Base(dir), RunDir: dir, Platform: c.platform, Launch: *spec})
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(filepath.Join(c.bin, "coffer-node"), "sandbox")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	cmd.Stdout = io.Discard
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	if _, err := in.Write(append(req, '\n')); err != nil {
		return 0, err
	}
	for time.Since(began) < 90*time.Second {
		b, err := os.ReadFile(filepath.Join(dir, nodeapi.ConsoleLog))
		if err == nil && bytes.Contains(b, []byte("COFFER-BARE-INIT")) {
			return time.Since(began).Seconds(), nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0, errors.New("no line of the bare init within 90 s")
}

type phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// fullRun gives the seconds from starting coffer run to the workload's first
// line, and the phases that coffer run itself reports.
func (c *config) fullRun(i int) (float64, []phase, error) {
	timings := filepath.Join(c.dir, fmt.Sprintf("timings-%d.json", i))
	args := append([]string{"run", "--tee", "tpm-sim", "--platform", c.platform, "--timings", timings}, c.extra...)
	if c.registries != "" {
		args = append(args, "--registries", c.registries)
	}
	cmd := exec.Command(filepath.Join(c.bin, "coffer"), append(args, c.pod)...)
	cmd.Env = append(os.Environ(), "COFFER_RUN_DIR="+filepath.Join(c.dir, "run"))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, nil, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	stop := time.AfterFunc(120*time.Second, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	line, rerr := bufio.NewReader(out).ReadString('\n')
	took := time.Since(began).Seconds()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	go func() { _, _ = io.Copy(io.Discard, out) }()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	if rerr != nil {
		return 0, nil, fmt.Errorf("no line of the workload (%q): %w\n%s", line, rerr, errs.String())
	}
	b, err := os.ReadFile(timings)
	if err != nil {
		return 0, nil, err
	}
	var ph []phase
	if err := json.Unmarshal(b, &ph); err != nil {
		return 0, nil, err
	}
	return took, ph, nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
