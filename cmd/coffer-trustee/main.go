// Command coffer-trustee is the data owner's trustee: Key Broker Service,
// Attestation Service and Reference Value Provider Service in one process. See
// docs/trustee.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/server"
)

const usage = `coffer-trustee keeps keys and secrets and releases them to attested TEEs.

Usage:
  coffer-trustee serve [--state DIR] [--listen ADDR] [--san NAME]... [--collateral PATH] [--simulated-namespace NAME] [--insecure-sample] [--limit NAME=N]...
                       [--database URL --envelope-key FILE [--database-connections N]]
  coffer-trustee new-envelope-key FILE
  coffer-trustee backup [--state DIR] [--database URL] [--envelope-key FILE] FILE
  coffer-trustee restore [--state DIR] [--database URL] [--envelope-key FILE] FILE

When it is ready, serve prints one line of JSON: url, ca_pem, admin_key_path, state_dir, pid.
`

func main() {
	err := run(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "coffer-trustee:", err)
		os.Exit(1)
	}
}

type names []string

func (n *names) String() string     { return fmt.Sprint(*n) }
func (n *names) Set(s string) error { *n = append(*n, s); return nil }

func run(args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "new-envelope-key":
			return newEnvelopeKey(args[1:])
		case "backup":
			return backup(context.Background(), args[1:])
		case "restore":
			return restore(context.Background(), args[1:])
		}
	}
	if len(args) == 0 || args[0] != "serve" {
		fmt.Fprint(os.Stderr, usage)
		if len(args) > 0 && (args[0] == "-h" || args[0] == "--help" || args[0] == "help") {
			return nil
		}
		return errors.New("no command given: serve, backup, restore or new-envelope-key")
	}
	f := flag.NewFlagSet("coffer-trustee serve", flag.ContinueOnError)
	var c server.Config
	var san names
	f.StringVar(&c.State, "state", "", "folder of all state (default $COFFER_STATE/trustee, or ~/.local/share/coffer/trustee)")
	f.StringVar(&c.Listen, "listen", "127.0.0.1:0", "address to listen on; port 0 takes a free one")
	f.Var(&san, "san", "further DNS name or IP address of the TLS certificate; may be repeated")
	f.StringVar(&c.SimulatedNamespace, "simulated-namespace", "", "make this namespace, as simulated: it protects nothing")
	f.StringVar(&c.Collateral, "collateral", "", "collateral bundle, or folder of them (*.json), to import at the start")
	f.BoolVar(&c.InsecureSample, "insecure-sample", false, "take samples as evidence, which anybody can make: for tests of clients only")
	c.Limits = limits.Defaults()
	f.Func("limit", "NAME=N, how many of something are kept, such as seals=20000; may be repeated (docs/trustee.md)", c.Limits.Change)
	databaseFlags(f, &c)
	f.IntVar(&c.DatabaseConnections, "database-connections", 0, "most connections to the database at once (default 8)")
	readyFD := f.Int("ready-fd", 1, "file descriptor for the line that says the server is ready")
	output := f.String("output", "json", "form of that line: json")
	lease := f.String("lease-socket", "", "Unix socket: end when the last connection to it has ended (for commands that share one trustee)")
	dieWithParent := f.Bool("die-with-parent", false, "end when the process that started this one ends")
	verbose := f.Bool("verbose", false, "log more")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("serve takes no arguments, got %q", f.Args())
	}
	if *output != "json" {
		return fmt.Errorf("--output %q: only json", *output)
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	c.Names, c.Now = san, time.Now
	c.Log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if c.State == "" {
		var err error
		if c.State, err = defaultState(); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *dieWithParent {
		if err := followParent(); err != nil {
			return err
		}
	}
	return serve(ctx, c, *readyFD, *lease)
}

func defaultState() (string, error) {
	if d := os.Getenv("COFFER_STATE"); d != "" {
		return filepath.Join(d, "trustee"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no --state given: %w", err)
	}
	return filepath.Join(home, ".local", "share", "coffer", "trustee"), nil
}

func serve(ctx context.Context, c server.Config, readyFD int, leaseSocket string) error {
	s, err := server.Start(ctx, c)
	if err != nil {
		return err
	}
	lease := &server.Lease{}
	if leaseSocket != "" {
		if lease, err = server.NewLease(leaseSocket); err != nil {
			return errors.Join(err, s.Close(ctx))
		}
		var cancel context.CancelFunc
		ctx, cancel = lease.Context(ctx)
		defer cancel()
	}
	if err := ready(s, readyFD); err != nil {
		return errors.Join(err, s.Close(ctx))
	}
	c.Log.Info("trustee is ready", "url", s.URL(), "state", c.State)
	err = s.Wait(ctx)
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	// Before the state is closed: then another server may have its socket there.
	lease.Close()
	grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(err, s.Close(grace))
}

// ready writes the one line that parents wait for.
func ready(s *server.Server, fd int) error {
	b, err := json.Marshal(s.Client())
	if err != nil {
		return err
	}
	out := os.Stdout
	if fd != 1 {
		if out = os.NewFile(uintptr(fd), "ready-fd"); out == nil {
			return fmt.Errorf("--ready-fd %d is not open", fd)
		}
		defer out.Close()
	}
	if _, err := out.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("--ready-fd %d: %w", fd, err)
	}
	return nil
}
