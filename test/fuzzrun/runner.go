package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const module = "github.com/cofferproject/coffer"

// runner compiles each package's instrumented test once and runs its targets.
type runner struct {
	ctx      context.Context
	root     string
	dir      string // test binaries and fuzzing's own corpus
	binaries map[string]string
	light    bool // instrument our own packages only
}

func newRunner(ctx context.Context, root string, light bool) (*runner, error) {
	dir, err := os.MkdirTemp("", "coffer-fuzz-")
	return &runner{ctx: ctx, root: root, dir: dir, binaries: map[string]string{}, light: light}, err
}

func (r *runner) close() { _ = os.RemoveAll(r.dir) }

func (r *runner) run(ts []*target) error {
	began := time.Now()
	if err := r.compile(ts); err != nil {
		return err
	}
	fmt.Printf("fuzzrun: compiled %d packages in %.0f s\n", len(r.binaries), time.Since(began).Seconds())
	var failed []string
	for _, t := range ts {
		if err := r.one(t); err != nil {
			fmt.Printf("FAIL %s\n%v\n", t.name(), err)
			failed = append(failed, t.name())
		}
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
	}
	fmt.Printf("fuzzrun: %d targets in %.0f s, %d failed\n", len(ts), time.Since(began).Seconds(), len(failed))
	if len(failed) > 0 {
		return fmt.Errorf("found something in %s; the inputs are in testdata/fuzz", strings.Join(failed, ", "))
	}
	return nil
}

// compile builds the packages' tests, two at a time: linking is serial.
func (r *runner) compile(ts []*target) error {
	for _, t := range ts {
		r.binaries[t.pkg] = filepath.Join(r.dir, strings.ReplaceAll(t.pkg, "/", "_")+".test")
	}
	todo := make(chan string)
	errs := make(chan error, len(r.binaries))
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for pkg := range todo {
				errs <- r.compileOne(pkg)
			}
		})
	}
	for pkg := range r.binaries {
		todo <- pkg
	}
	close(todo)
	workers.Wait()
	close(errs)
	var all error
	for err := range errs {
		all = errors.Join(all, err)
	}
	return all
}

// compileOne instruments everything that is linked, as go test -fuzz does; with
// light only our own packages, which takes a fraction of the time to compile
// and steers by what is ours to get wrong.
func (r *runner) compileOne(pkg string) error {
	args := []string{"test", "-c", "-vet=off", "-o", r.binaries[pkg]}
	if r.light {
		args = append(args, "-gcflags="+module+"/...=-d=libfuzzer")
	} else {
		args = append(args, "-fuzz=.")
	}
	cmd := exec.CommandContext(r.ctx, "go", append(args, "./"+pkg)...)
	cmd.Dir = r.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling %s: %w: %s", pkg, err, bytes.TrimSpace(out))
	}
	return nil
}

// grace is how long over its time a target may take: reading seeds, minimising.
const grace = 2 * time.Minute

func (r *runner) one(t *target) error {
	ctx, cancel := context.WithTimeout(r.ctx, t.time+grace)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.binaries[t.pkg],
		"-test.run=^$", "-test.fuzz=^"+t.fn+"$", "-test.fuzztime="+t.time.String(),
		"-test.fuzzcachedir="+filepath.Join(r.dir, "corpus", t.name()), "-test.timeout=0")
	cmd.Dir = filepath.Join(r.root, filepath.FromSlash(t.pkg))
	// The workers end with the coordinator, also when it is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil && !onlyTimeUp(out) {
		return errors.Join(err, fmt.Errorf("%s", tail(out, 40)))
	}
	fmt.Printf("ok   %-45s %s\n", t.name(), lastCount(out))
	return nil
}

// onlyTimeUp tells the engine's own slip from a find: where a worker is busy as
// the time ends, it may call that a failure ("context deadline exceeded"), but no
// input is behind it and none is written. A hang or a crash names one.
func onlyTimeUp(out []byte) bool {
	_, after, ok := bytes.Cut(out, []byte("\n--- FAIL: "))
	if !ok {
		return false
	}
	ls := strings.Split(strings.TrimSpace(string(after)), "\n")
	return len(ls) == 3 && strings.TrimSpace(ls[1]) == "context deadline exceeded" && ls[2] == "FAIL"
}

// lastCount is the last progress line of the fuzzing engine, shortened.
func lastCount(out []byte) string {
	last := ""
	for l := range strings.Lines(string(out)) {
		if strings.Contains(l, "execs:") {
			last = strings.TrimSpace(strings.TrimPrefix(l, "fuzz: "))
		}
	}
	return last
}

func tail(out []byte, n int) string {
	ls := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(ls[max(0, len(ls)-n):], "\n")
}
