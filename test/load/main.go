// Command load puts a trustee under load with the published protocol and SNP evidence of
// a simulated chip, in a process of its own, and prints what it costs:
//
//	go run ./test/load --bin bin
//
// Every figure is of one run on one machine, and CPU time is the server's own
// (getrusage), so that what else runs there disturbs little. With --enforce a
// missed bound is a failure; rates are worth that on a quiet machine alone.
//
// Trust zone: tests only.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

type options struct {
	bin      string
	database string
	duration time.Duration
	workers  int
	sessions int
	flood    int
	secrets  int
	only     string
	enforce  bool
}

// steps are what is measured, in this order.
var steps = []struct {
	name string
	do   func(context.Context, *bench) error
}{{"decision", decision}, {"handshakes", handshakes}, {"paced", paced}, {"reads", reads}, {"sessions", sessions}, {"flood", flood}, {"secrets", secrets}}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder with coffer-trustee")
	flag.StringVar(&o.database, "database", "", "database for the trustee (default: its embedded store)")
	flag.DurationVar(&o.duration, "duration", 5*time.Second, "how long each load lasts")
	flag.IntVar(&o.workers, "workers", 16, "clients at once")
	flag.IntVar(&o.sessions, "sessions", 10_000, "attested sessions to leave open")
	flag.IntVar(&o.flood, "flood", 50_000, "/auth requests of which nothing comes")
	flag.IntVar(&o.secrets, "secrets", 5_000, "secrets to store, against 100")
	flag.StringVar(&o.only, "only", "", "what to measure, such as handshakes,reads (default: all)")
	flag.BoolVar(&o.enforce, "enforce", false, "end with status 1 where a bound is missed")
	flag.Parse()
	debug.SetGCPercent(800) // it shares its processors with the server
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	options
	figures
	dir    string
	server *server
	pod    *pod
	verify time.Duration // of one P-384 verification, CPU
	rate   float64       // handshakes a second, for paced
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "coffer-load-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{options: o, dir: dir}
	if b.server, err = b.start(ctx, "state", o.database); err != nil {
		return err
	}
	defer b.server.stop()
	if b.pod, err = prepare(ctx, b.server); err != nil {
		return err
	}
	b.most("RSS, idle", mib(b.server.rss()), 60, "%.1f MiB")
	for _, s := range steps {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), s.name) {
			continue
		}
		if err := s.do(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if o.enforce {
		return b.err()
	}
	return nil
}

// start starts a trustee with its state in a folder of that name.
func (b *bench) start(ctx context.Context, name, database string) (*server, error) {
	return start(ctx, filepath.Join(b.bin, "coffer-trustee"), filepath.Join(b.dir, name), database)
}
