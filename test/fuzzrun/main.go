// Command fuzzrun runs the fuzz targets of the whole repository.
//
//	fuzzrun                      each target: 10 minutes for what an
//	                             unauthenticated peer can send, 2 for the rest
//	fuzzrun -each 30s            the same time for each
//	fuzzrun -total 3m -changed   as many as that time, compiling included, has
//	                             room for: first those of packages that differ
//	                             from the last release or merge, 6 s each, then
//	                             others for 2 s each, in another order at each
//	                             commit; only our own packages are instrumented,
//	                             which compiles fast
//	fuzzrun -list                which targets there are
//
// Each package is compiled once, while the one before is fuzzed. A target that finds something leaves the input
// in the package's testdata/fuzz, where it becomes a seed, and fails the run;
// the others still get their time. docs/fuzz.md records the long runs.
//
// Trust zone: tests only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	var o options
	flag.DurationVar(&o.each, "each", 0, "time of each target (default: 10m or 2m by its kind)")
	flag.DurationVar(&o.total, "total", 0, "time of the whole run: as many targets as have room in it")
	flag.BoolVar(&o.changed, "changed", false, "with -total: changed packages first and longer")
	run := flag.String("run", "", "only targets whose package.Name matches this regular expression")
	list := flag.Bool("list", false, "list the targets and their times")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := fuzz(ctx, o, *run, *list); err != nil {
		fmt.Fprintln(os.Stderr, "fuzzrun:", err)
		os.Exit(1)
	}
}

type options struct {
	each, total time.Duration
	changed     bool
}

func fuzz(ctx context.Context, o options, pattern string, list bool) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	targets, err := find(root)
	if err != nil {
		return err
	}
	targets = keep(targets, re.MatchString)
	if len(targets) == 0 {
		return errors.New("no targets")
	}
	if o.changed {
		markChanged(ctx, root, targets)
	}
	plan(targets, o, head(ctx, root))
	if list {
		for _, t := range targets {
			fmt.Printf("%-45s %6s  %s\n", t.name(), t.time.Round(100*time.Millisecond), t.kind())
		}
		return nil
	}
	r, err := newRunner(ctx, root, o.total)
	if err != nil {
		return err
	}
	defer r.close()
	return r.run(targets)
}
