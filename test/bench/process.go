package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/libos"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/owner/gramine"
	"github.com/cofferproject/coffer/owner/image"
)

// rootfs is the image's files on disk, for a runtime that is told nothing of Coffer.
type rootfs struct {
	bundle string
	bytes  int64 // of all files
	env    []string
	args   []string
}

// unpackImage lays the plain image out as a bundle.
func (c *config) unpackImage(ctx context.Context) (*rootfs, error) {
	src, err := image.Open(image.Location{Kind: image.OCI, Path: filepath.Join(c.layouts, strings.ReplaceAll(smallImage, ":", "/"))}, nil)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	root, err := src.Root(ctx)
	if err != nil {
		return nil, err
	}
	doc, err := manifest.Parse(root.Bytes, root.MediaType)
	for err == nil && doc.Index != nil {
		i := slices.IndexFunc(doc.Index.Manifests, func(d manifest.Descriptor) bool {
			return d.Platform == nil || d.Platform.Architecture == runtime.GOARCH
		})
		if i < 0 {
			return nil, errors.New("the image to compare with is not for this machine")
		}
		if root, err = src.Document(ctx, doc.Index.Manifests[i]); err == nil {
			doc, err = manifest.Parse(root.Bytes, root.MediaType)
		}
	}
	if err != nil {
		return nil, err
	}
	r := &rootfs{bundle: c.file("bundle")}
	if err := os.Mkdir(r.bundle, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.OpenRoot(r.bundle)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	tree, err := gramine.NewTree(dir)
	if err != nil {
		return nil, err
	}
	cfg, err := tree.AddImage(ctx, src, doc.Manifest, func(string) {})
	if err != nil {
		return nil, err
	}
	r.env = append(slices.Clone(cfg.Config.Env), "RESOURCE=none", "STAY=1")
	r.args = append(slices.Clone(cfg.Config.Entrypoint), cfg.Config.Cmd...)
	files, err := tree.Files()
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		r.bytes += f.Size
	}
	return r, tree.Write(files)
}

// running is a sandbox that has printed its first line.
type running struct {
	seconds float64
	pss     int // KiB
}

// plainRun starts the image under the same runtime, with the same flags, and nothing
// of Coffer's.
func (c *config) plainRun(r *rootfs, i int) (*running, error) {
	command, err := libos.ParseCommand(libos.DefaultCmdline(libos.ReleaseFloor()))
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(map[string]any{
		"ociVersion": "1.1.0", "hostname": "plain", "root": map[string]any{"path": "rootfs"},
		"process": map[string]any{"user": map[string]int{"uid": 0, "gid": 0}, "args": r.args, "env": r.env, "cwd": "/"},
		"linux": map[string]any{"namespaces": []map[string]string{
			{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"},
		}},
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(r.bundle, "config.json"), b, 0o600); err != nil {
		return nil, err
	}
	id := fmt.Sprintf("plain-%d", i)
	state := c.file("plain-state")
	cmd := exec.Command(filepath.Join(c.bin, libos.RuntimeProgram), append(append([]string{"-root=" + state}, command.Flags...), "run", "-bundle="+r.bundle, id)...)
	return c.firstLine(cmd, func() error {
		return exec.Command(filepath.Join(c.bin, libos.RuntimeProgram), "-root="+state, "kill", id, "KILL").Run()
	})
}

// sealedRun starts the sealed pod with coffer run. The time is from "sealed and
// registered": what comes before is the owner's work, and is not repeated where a
// node starts a pod.
func (c *config) sealedRun(i int) (*running, []phase, error) {
	timings := c.file(fmt.Sprintf("timings-%d.json", i))
	cmd := c.command("coffer", "run", "--tee", string(launch.SGXSim), "--timings", timings, "--registries", c.file("registries.conf"), c.pod)
	s := new(sample)
	run, err := c.firstLine(cmd, func() error {
		console, err := c.console()
		s.guest, _ = readConsole(console)
		return errors.Join(err, cmd.Process.Signal(syscall.SIGTERM))
	})
	if err != nil {
		return nil, nil, err
	}
	b, err := os.ReadFile(timings)
	if err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(b, &s.phases); err != nil {
		return nil, nil, err
	}
	run.seconds = s.until("workload's first line") - s.until("sealed and registered")
	for _, g := range s.guest {
		s.phases = append(s.phases, phase{"guest: " + g.Name, g.Seconds})
	}
	return run, s.phases, nil
}

// firstLine starts a command and waits for its first line, looks at what its
// processes weigh half a second later, and ends it.
func (c *config) firstLine(cmd *exec.Cmd, end func() error) (*running, error) {
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	kill := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	br := bufio.NewReader(out)
	line, err := br.ReadString('\n')
	r := &running{seconds: time.Since(began).Seconds()}
	if err == nil {
		time.Sleep(500 * time.Millisecond)
		r.pss, err = weigh(cmd.Process.Pid, libos.RuntimeProgram)
	}
	go func() { _, _ = io.Copy(io.Discard, br) }()
	err = errors.Join(err, end())
	_ = cmd.Wait()
	if err != nil {
		return nil, fmt.Errorf("no line, or no figures (%q): %w\n%s", line, err, errs.String())
	}
	return r, nil
}

// weigh sums the PSS of the descendants of a process that run a program, itself
// included. The library OS's memory file is in it, where its processes map it. Processes
// that share one address space, as the Sentry's have for each process of the guest, have
// one PSS and are counted once.
func weigh(pid int, program string) (kib int, err error) {
	sum, found := 0, false
	var counted []int
	for _, p := range descendants(pid) {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p))
		if err != nil || filepath.Base(strings.TrimSuffix(exe, " (deleted)")) != program && !runtimes(p) {
			continue
		}
		shared, err := sharesMemory(p, counted)
		if err != nil {
			return 0, err
		}
		if shared {
			continue
		}
		counted = append(counted, p)
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "Pss:"); ok {
				n, err := strconv.Atoi(strings.Fields(v)[0])
				if err != nil {
					return 0, err
				}
				sum, found = sum+n, true
			}
		}
	}
	if !found {
		return 0, errors.New("no process of the runtime")
	}
	return sum, nil
}

// sharesMemory says whether a process has the address space of one of the others.
func sharesMemory(pid int, others []int) (bool, error) {
	const vm = 1 // KCMP_VM
	for _, o := range others {
		r, _, e := unix.Syscall6(unix.SYS_KCMP, uintptr(pid), uintptr(o), vm, 0, 0, 0)
		if e != 0 {
			return false, fmt.Errorf("comparing the memory of processes %d and %d: %w", pid, o, e)
		}
		if r == 0 {
			return true, nil
		}
	}
	return false, nil
}

// runtimes says whether a process is one of the runtime's, by the name that it gives
// itself.
func runtimes(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.HasPrefix(string(b), "runsc")
}

// descendants gives a process and all below it.
func descendants(pid int) []int {
	children := map[int][]int{}
	dirs, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	for _, d := range dirs {
		b, err := os.ReadFile(d)
		if err != nil {
			continue
		}
		i := strings.LastIndexByte(string(b), ')')
		f := strings.Fields(string(b)[i+1:])
		p, err1 := strconv.Atoi(filepath.Base(filepath.Dir(d)))
		parent, err2 := strconv.Atoi(f[1])
		if err1 == nil && err2 == nil {
			children[parent] = append(children[parent], p)
		}
	}
	out := []int{pid}
	for i := 0; i < len(out); i++ {
		out = append(out, children[out[i]]...)
	}
	return out
}

// runProcess measures a pod in a process against the same image under the same
// runtime alone.
func (c *config) runProcess(ctx context.Context, w io.Writer) error {
	s := &services{c: c}
	defer s.stop()
	if err := s.setUp(); err != nil {
		return err
	}
	r, err := c.unpackImage(ctx)
	if err != nil {
		return err
	}
	f := newFigures(c)
	for i := range c.runs + 1 {
		plain, err := c.plainRun(r, i)
		if err != nil {
			return fmt.Errorf("runsc run: %w", err)
		}
		sealed, phases, err := c.sealedRun(i)
		if err != nil {
			return fmt.Errorf("coffer run: %w", err)
		}
		if i == 0 { // the host's caches, and the trustee's first sight of this hardware
			continue
		}
		f.put("T_runsc: runsc run to the first line", 0, plain.seconds)
		f.put("T_run: sealed and registered to the first line", 0, sealed.seconds)
		f.put("T_run - T_runsc", 0.4, sealed.seconds-plain.seconds)
		for _, p := range phases {
			f.put(p.Name, 0, p.Seconds)
		}
		f.weights = append(f.weights, [2]int{plain.pss, sealed.pss})
	}
	f.print(w)
	var more []float64
	for _, x := range f.weights {
		more = append(more, float64(x[1]-x[0])/1024-float64(r.bytes)/(1<<20))
	}
	fmt.Fprintf(w, "PSS of the runtime's processes (plain, sealed), KiB: %v; unpacked image %.1f MiB\n", f.weights, float64(r.bytes)/(1<<20))
	fmt.Fprintf(w, "sealed - plain - image: median %.1f MiB (bound 60 MB)\n", median(more))
	if c.jsonOut != "" {
		return f.write(c.jsonOut)
	}
	return nil
}
