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
	"runtime/debug"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/server"
)

const usage = `coffer-trustee keeps keys and secrets and releases them to attested TEEs.

Usage:
  coffer-trustee serve [--state DIR] [--config FILE] [--listen ADDR] [--san NAME]... [--collateral PATH] [--as-listen ADDR] [--rvps-listen ADDR] [--limit NAME=N]...
                       [--ops-listen ADDR] [--rate-peer N] [--rate-namespace N] [--peer-connections N] [--drain-delay TIME] [--drain-timeout TIME]
                       [--tls-cert FILE --tls-key FILE] [--first-admin FILE] [--admin-client-ca FILE] [--ask-client-certificate]
                       [--admin-issuer URL --admin-issuer-audience NAME [--admin-issuer-claim NAME]... [--admin-issuer-keys URL] [--admin-issuer-ca FILE]]...
                       [--audit-log files|store] [--audit-witness URL]... [--audit-witness-required N] [--audit-checkpoint-every TIME]
                       [--fetch VENDOR[=URL]]... [--fetch-proxy URL] [--fetch-ca FILE] [--fetch-every TIME] [--fetch-pace TIME] [--fetch-timeout TIME] [--fetch-tpm-host HOST]...
                       [--plugin NAME=ENDPOINT]... [--secret-store NAME=KIND:WHERE?OPTIONS]... [--trace-endpoint URL] [--trace-ratio N] [--trace-accept CIDR]...
                       [--database URL --envelope-key FILE [--database-connections N]] [--key-service SPEC] [--old-envelope-key FILE [--old-key-service SPEC]]
  coffer-trustee kbs --attestation-service URL --trusted-cert FILE [--attestation-ca FILE --attestation-cert FILE --attestation-key FILE] [flags of serve]
  coffer-trustee as [--socket ADDR] [--config-file FILE] [--reference-values URL [--reference-ca FILE --reference-cert FILE --reference-key FILE]] [flags of serve]
  coffer-trustee rvps [--address ADDR] [--config-file FILE] [flags of serve]
  coffer-trustee new-envelope-key [--key-service SPEC] FILE
  coffer-trustee wrap-envelope-key --envelope-key FILE [--key-service SPEC] --to-key-service SPEC NEWFILE
  coffer-trustee rewrap --old-envelope-key FILE [--old-key-service SPEC] --envelope-key FILE [--key-service SPEC] [--state DIR] [--database URL] [--output text|json]
  coffer-trustee import --from DIR|URL [--from-password FILE] [--from-ca FILE] [--state DIR] [--database URL] [--envelope-key FILE] [--namespace NAME] [--dry-run] [--replace]
                        [--output text|json]
  coffer-trustee backup [--state DIR] [--database URL] [--envelope-key FILE] FILE
  coffer-trustee restore [--state DIR] [--database URL] [--envelope-key FILE] FILE
  coffer-trustee fetch [--rest URL] kbs:///REPOSITORY/TYPE/TAG FILE [kbs:///... FILE]...

kbs, as and rvps are the parts of serve in processes of their own (docs/trustee/separate-services.md).
import brings over the LocalFs, LocalJson, Redis or PostgreSQL stores of the existing services: secrets, appraisal policies, reference values.
fetch is for a trustee that runs in a TEE itself: it gets a secret from another trustee through the guest and keeps it in a file, such as the envelope key.
When it is ready, serve prints one line of JSON: url, ca_pem, admin_key_path, state_dir, pid.
`

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // a heap of some 10 MiB at rest, collected a quarter as often
	}
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
		case "import":
			return importStores(args[1:])
		case "new-envelope-key":
			return newEnvelopeKey(context.Background(), args[1:])
		case "wrap-envelope-key":
			return wrapEnvelopeKey(context.Background(), args[1:])
		case "rewrap":
			return rewrap(context.Background(), args[1:])
		case "backup":
			return backup(context.Background(), args[1:])
		case "fetch":
			return fetch(context.Background(), args[1:])
		case "restore":
			return restore(context.Background(), args[1:])
		}
	}
	role, known := server.RoleAll, false
	if len(args) > 0 {
		role, known = roles[args[0]]
	}
	if !known {
		fmt.Fprint(os.Stderr, usage)
		if len(args) > 0 && (args[0] == "-h" || args[0] == "--help" || args[0] == "help") {
			return nil
		}
		return errors.New("no command given: serve, kbs, as, rvps, import, backup, restore, new-envelope-key, wrap-envelope-key, rewrap or fetch")
	}
	f := flag.NewFlagSet("coffer-trustee "+args[0], flag.ContinueOnError)
	c := server.Config{Role: role}
	var san names
	f.StringVar(&c.State, "state", "", "folder of all state (default $COFFER_STATE/trustee, or ~/.local/share/coffer/trustee)")
	config := f.String("config", "", "configuration file of the existing Key Broker Service (TOML, JSON or YAML); --listen goes before its address")
	f.StringVar(&c.Listen, "listen", "", "address to listen on; port 0 takes a free one (default 127.0.0.1:0)")
	f.Var(&san, "san", "further DNS name or IP address of the TLS certificate; may be repeated")
	f.StringVar(&c.SimulatedNamespace, "simulated-namespace", "", "make this namespace, as simulated: it protects nothing")
	f.StringVar(&c.Collateral, "collateral", "", "collateral bundle, or folder of them (*.json), to import at the start")
	f.BoolVar(&c.InsecureSample, "insecure-sample", false, "take samples as evidence, which anybody can make: for tests of clients only")
	f.StringVar(&c.Services.Attestation, "as-listen", "", "serve the Attestation Service (gRPC and REST) for other programs at this address")
	f.StringVar(&c.Services.Reference, "rvps-listen", "", "serve the Reference Value Provider Service (gRPC) at this address")
	f.StringVar(&c.Services.Namespace, "as-namespace", "", "namespace that both serve (default \"default\")")
	f.StringVar(&c.Services.ClientCA, "as-client-ca", "", "certificates (PEM) of who issues certificates for callers of both")
	f.StringVar(&c.Services.AdminCA, "as-admin-ca", "", "certificates (PEM) of who issues certificates for callers that may change policies and reference values")
	f.BoolVar(&c.Services.InsecureUnbound, "insecure-unbound-evidence", false, "have the Attestation Service judge evidence that no runtime data ties to a session")
	f.StringVar(&c.CertFile, "tls-cert", "", "certificate chain (PEM) to show peers, read anew when it changes (default: one that the trustee makes)")
	f.StringVar(&c.KeyFile, "tls-key", "", "its key (PEM)")
	f.StringVar(&c.FirstAdmin, "first-admin", "", "public key (PEM, Ed25519) of the administrator whom the first start registers (default: that makes a key, admin.key in --state)")
	f.StringVar(&c.AdminClientCA, "admin-client-ca", "", "certificates (PEM) of who issues administrators' client certificates; peers are then asked for one")
	f.BoolVar(&c.AskForCertificates, "ask-client-certificate", false, "ask peers for a client certificate, for administrators whose key is registered (docs/trustee/roles.md)")
	issuerFlags(f, &c.AdminIssuers)
	serviceFlags(f, &c, config)
	c.Limits = limits.Defaults()
	f.Func("limit", "NAME=N, how many of something are kept, such as seals=20000; may be repeated (docs/trustee.md)", c.Limits.Change)
	f.StringVar(&c.Operations.Listen, "ops-listen", "", "address of /metrics, /healthz and /readyz, without TLS: for operators alone (default: none)")
	f.Float64Var(&c.Operations.PeerRate, "rate-peer", 0, "requests a second of one network address; 0 is 5000, below 0 no limit")
	f.Float64Var(&c.Operations.NamespaceRate, "rate-namespace", 0, "requests a second to one namespace; 0 is 20000, below 0 no limit")
	f.IntVar(&c.Operations.PeerConns, "peer-connections", 0, "connections of one network address; 0 is half of all")
	f.DurationVar(&c.Operations.DrainDelay, "drain-delay", 0, "how long to go on, not ready, after SIGTERM")
	auditFlags(f, &c.Audit)
	traceFlags(f, &c.Tracing)
	pluginFlags(f, &c.Plugins)
	secretStoreFlags(f, &c.SecretStores)
	insideFlags(f, &c)
	fetchFlags(f, &c.Fetch)
	drain := f.Duration("drain-timeout", 10*time.Second, "how long requests in progress may take after that")
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
		return fmt.Errorf("%s takes no arguments, got %q", args[0], f.Args())
	}
	if *output != "json" {
		return fmt.Errorf("--output %q: only json", *output)
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("--tls-cert and --tls-key go together")
	}
	c.Names, c.Now = san, time.Now
	c.Log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if *config != "" {
		if err := readConfig(&c, *config); err != nil {
			return err
		}
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
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
	return serve(ctx, c, *readyFD, *lease, *drain)
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

// reloadOnHangup reads certificates anew at SIGHUP.
func reloadOnHangup(ctx context.Context, s *server.Server, log *slog.Logger) (stop func()) {
	hup, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-hup:
				if err := s.Reload(ctx); err != nil {
					log.Error("reloading failed", "error", err)
				} else {
					log.Info("certificates were read anew")
				}
			}
		}
	}()
	return func() { signal.Stop(hup); close(done) }
}

func serve(ctx context.Context, c server.Config, readyFD int, leaseSocket string, drain time.Duration) error {
	s, err := server.Start(ctx, c)
	if err != nil {
		return err
	}
	stop := reloadOnHangup(ctx, s, c.Log)
	defer stop()
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
	s.Drain(context.Background())
	grace, cancel := context.WithTimeout(context.Background(), drain)
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
