// Command bench measures whole runs: how long a pod takes from `coffer run` to
// its first line, against a bare boot of the same QEMU, firmware, vTPM, kernel
// and memory, in one go and alternating, so that a noisy machine disturbs both.
// docs/performance.md says how to read the figures; make bench runs it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/nodeapi"
	"github.com/cofferproject/coffer/api/platform"
)

type config struct {
	bin, platform, layouts string
	bareInitrd, bareTEE    string
	runs                   int
	memory, cpus           int
	jsonOut                string
	keep                   bool
	process, network, bare bool
	pod                    string // sealed manifest
	dir                    string
}

func main() {
	// Children die with the thread that started them.
	runtime.LockOSThread()
	var c config
	flag.StringVar(&c.bin, "bin", "bin", "folder of the binaries")
	flag.StringVar(&c.platform, "platform", "", "platform.json")
	flag.StringVar(&c.layouts, "layouts", "", "folder of the stand-in images, as test/standins builds it")
	flag.StringVar(&c.bareInitrd, "bare-initrd", "", "initrd of the bare init (default: beside platform.json)")
	flag.IntVar(&c.runs, "runs", 5, "runs of each")
	flag.IntVar(&c.memory, "memory", 256, "MiB of both VMs")
	flag.IntVar(&c.cpus, "cpus", launch.DefaultVCPUs, "vCPUs of both VMs")
	flag.StringVar(&c.jsonOut, "json", "", "file for the figures as JSON")
	flag.BoolVar(&c.keep, "keep", false, "keep the consoles and timings of all runs")
	flag.BoolVar(&c.process, "process", false, "measure a pod in a process (sgx-sim) against the same runtime alone")
	flag.BoolVar(&c.network, "network", false, "measure a pod's network against a plain VM's with the same devices")
	flag.BoolVar(&c.bare, "bare", false, "boot the bare init alone, and print the seconds of each run")
	flag.StringVar(&c.bareTEE, "bare-tee", string(launch.TPMSim), "with --bare: the simulated TEE that it boots in")
	flag.Parse()
	if err := c.run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (c *config) run(w io.Writer) (err error) {
	if c.bin, err = filepath.Abs(c.bin); err != nil {
		return err
	}
	if c.dir, err = os.MkdirTemp("", "coffer-bench-"); err != nil {
		return err
	}
	if c.keep {
		fmt.Fprintln(w, "files kept in", c.dir)
	} else {
		defer os.RemoveAll(c.dir)
	}
	if c.process {
		return c.runProcess(context.Background(), w)
	}
	if c.network {
		return c.runNetwork(context.Background(), w)
	}
	p, err := platform.Load(c.platform)
	if err != nil {
		return err
	}
	if c.bareInitrd == "" {
		c.bareInitrd = filepath.Join(filepath.Dir(c.platform), "initrd-bare.cpio")
	}
	if c.bare {
		return c.runBare(p, w)
	}
	return c.runVM(p, w)
}

// runBare prints seconds for who measures something else beside (test/kube).
func (c *config) runBare(p *platform.Platform, w io.Writer) error {
	for i := range c.runs {
		s, err := c.bareBoot(p, i)
		if err != nil {
			return fmt.Errorf("bare boot: %w", err)
		}
		fmt.Fprintf(w, "%.3f\n", s)
	}
	return nil
}

func (c *config) runVM(p *platform.Platform, w io.Writer) error {
	s := &services{c: c}
	defer s.stop()
	if err := s.setUp(); err != nil {
		return err
	}
	f := newFigures(c)
	// Once each without counting: caches of the host, and the KVM probe.
	if _, err := c.bareBoot(p, -1); err != nil {
		return fmt.Errorf("bare boot: %w", err)
	}
	if _, err := c.fullRun(-1, nil); err != nil {
		return fmt.Errorf("coffer run: %w", err)
	}
	for i := range c.runs {
		bare, err := c.bareBoot(p, i)
		if err != nil {
			return fmt.Errorf("bare boot: %w", err)
		}
		full, err := c.fullRun(i, nil)
		if err != nil {
			return fmt.Errorf("coffer run: %w", err)
		}
		f.add(bare, full)
		fmt.Fprintf(w, "run %d: bare %.2f s, coffer run %.2f s, difference %.2f s\n", i+1, bare, full.total, full.total-bare)
	}
	var err error
	if f.PSS, err = c.measurePSS(); err != nil {
		fmt.Fprintln(w, "no PSS:", err)
	}
	f.print(w)
	if c.jsonOut != "" {
		return f.write(c.jsonOut)
	}
	return nil
}

// bareBoot gives the seconds from the request to the bare init's line.
func (c *config) bareBoot(p *platform.Platform, i int) (float64, error) {
	seconds, stop, err := c.plainVM(p, fmt.Sprintf("bare-%d", i), c.bareInitrd, "COFFER-BARE-INIT")
	if err == nil {
		stop()
	}
	return seconds, err
}

// plainVM boots a VM with another initrd than Coffer's, and gives the seconds from the
// request to the line that its first process prints. stop ends it.
func (c *config) plainVM(p *platform.Platform, name, initrd, line string, publish ...launch.PortForward) (seconds float64, stop func(), err error) {
	spec, err := p.Spec(launch.TEE(c.bareTEE), platform.Sim, c.memory, c.cpus)
	if err != nil {
		return 0, nil, err
	}
	spec.Initrd, spec.Publish = launch.File{Path: initrd}, publish
	dir := c.file(name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, nil, err
	}
	req, err := json.Marshal(nodeapi.Request{ID: name, RunDir: dir, Platform: c.platform, Launch: *spec})
	if err != nil {
		return 0, nil, err
	}
	cmd := c.command("coffer-node", "sandbox")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, nil, err
	}
	cmd.Stdout = io.Discard
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	stop = func() { _ = in.Close(); _ = cmd.Wait() }
	defer func() {
		if err != nil {
			stop()
		}
	}()
	if _, err := in.Write(append(req, '\n')); err != nil {
		return 0, nil, err
	}
	var text []byte
	for time.Since(began) < 90*time.Second {
		if text, err = os.ReadFile(filepath.Join(dir, nodeapi.ConsoleLog)); err == nil && bytes.Contains(text, []byte(line)) {
			return time.Since(began).Seconds(), stop, nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0, nil, fmt.Errorf("no line %s within 90 s; the console's end: %q", line, text[max(0, len(text)-500):])
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
