// Command load puts a trustee under load with the published protocol and SNP evidence of
// a simulated chip, in a process of its own, and prints what it costs:
//
//	go run ./test/load --bin bin
//
// Every figure is of one run on one machine, and CPU time is the server's own
// (getrusage), so that what else runs there disturbs little.
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
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder with coffer-trustee")
	flag.StringVar(&o.database, "database", "", "database for the trustee (default: its embedded store)")
	flag.DurationVar(&o.duration, "duration", 5*time.Second, "how long each load lasts")
	flag.IntVar(&o.workers, "workers", 16, "clients at once")
	flag.IntVar(&o.sessions, "sessions", 10_000, "sessions to leave open")
	flag.IntVar(&o.flood, "flood", 50_000, "further /auth requests, of which nothing comes")
	flag.IntVar(&o.secrets, "secrets", 5_000, "secrets to store, against 100")
	flag.Parse()
	debug.SetGCPercent(800) // it shares its processors with the server
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// say prints one figure with its bound.
func say(what, value, bound string) {
	if bound != "" {
		bound = "(bound " + bound + ")"
	}
	fmt.Printf("%-62s %14s  %s\n", what, value, bound)
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "coffer-load-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := start(ctx, filepath.Join(o.bin, "coffer-trustee"), dir, o.database)
	if err != nil {
		return err
	}
	defer s.stop()
	p, err := prepare(ctx, s)
	if err != nil {
		return err
	}
	say("RSS, idle", mib(s.rss()), "60 MiB")
	verify, err := p384()
	if err != nil {
		return err
	}
	say("one P-384 verification, CPU", verify.Round(time.Microsecond).String(), "")
	for _, step := range []func(context.Context, options, *server, *pod, time.Duration) error{handshakes, paced, reads, many, open} {
		if err := step(ctx, o, s, p, verify); err != nil {
			return err
		}
	}
	return nil
}
