package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const module = "github.com/cofferproject/coffer"

// runner compiles each package's instrumented test once and runs its targets.
type runner struct {
	ctx   context.Context
	root  string
	dir   string        // test binaries and fuzzing's own corpus
	total time.Duration // of the run; 0: all targets have their time
}

func newRunner(ctx context.Context, root string, total time.Duration) (*runner, error) {
	dir, err := os.MkdirTemp("", "coffer-fuzz-")
	return &runner{ctx: ctx, root: root, dir: dir, total: total}, err
}

func (r *runner) close() { _ = os.RemoveAll(r.dir) }

// compiled is a package that can be fuzzed, or cannot be compiled.
type compiled struct {
	pkg string
	err error
}

func (r *runner) run(ts []*target) error {
	began := time.Now()
	ctx, cancel := context.WithCancel(r.ctx)
	packages := r.compile(ctx, ts)
	defer func() {
		cancel()
		for range packages { // until nobody compiles any more
		}
	}()
	var failed []string
	ran, changed := 0, 0
	// Those of changed packages, which are first, have their turn whatever it takes.
	over := func(t *target) bool { return r.total > 0 && !t.changed && time.Since(began) > r.total }
	for p := range packages {
		if p.err != nil {
			return p.err
		}
		for _, t := range ts {
			if t.pkg != p.pkg || over(t) {
				continue
			}
			if t.changed {
				changed++
			}
			if err := r.one(t); err != nil {
				fmt.Printf("FAIL %s\n%v\n", t.name(), err)
				failed = append(failed, t.name())
			}
			ran++
			if r.ctx.Err() != nil {
				return r.ctx.Err()
			}
		}
		_ = os.Remove(r.binary(p.pkg))
		if r.total > 0 && time.Since(began) > r.total && !slices.ContainsFunc(ts[min(ran, len(ts)):], func(t *target) bool { return t.changed }) {
			break
		}
	}
	fmt.Printf("fuzzrun: %d of %d targets in %.0f s, %d failed; %d of changed packages\n",
		ran, len(ts), time.Since(began).Seconds(), len(failed), changed)
	if len(failed) > 0 {
		return fmt.Errorf("found something in %s; the inputs are in testdata/fuzz", strings.Join(failed, ", "))
	}
	return nil
}

func (r *runner) binary(pkg string) string {
	return filepath.Join(r.dir, strings.ReplaceAll(pkg, "/", "_")+".test")
}

// ahead is how many packages may wait for their turn, compiled.
const ahead = 2

// compile builds the packages' tests in the order of their targets, until ctx ends.
func (r *runner) compile(ctx context.Context, ts []*target) <-chan compiled {
	out := make(chan compiled, ahead)
	go func() {
		defer close(out)
		done := map[string]bool{}
		for _, t := range ts {
			if done[t.pkg] {
				continue
			}
			done[t.pkg] = true
			select {
			case out <- compiled{t.pkg, r.compileOne(ctx, t.pkg)}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// compileOne instruments everything that is linked, as go test -fuzz does; with
// a common time only our own packages, which takes a fraction of the time to compile
// and steers by what is ours to get wrong.
func (r *runner) compileOne(ctx context.Context, pkg string) error {
	args := []string{"test", "-c", "-vet=off", "-o", r.binary(pkg)}
	if r.total > 0 {
		args = append(args, "-gcflags="+module+"/...=-d=libfuzzer")
	} else {
		args = append(args, "-fuzz=.")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+pkg)...)
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
	cmd := exec.CommandContext(ctx, r.binary(t.pkg),
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
