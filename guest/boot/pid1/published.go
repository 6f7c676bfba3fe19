package pid1

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/guest/boot"
	"github.com/cofferproject/coffer/guest/keyholder"
	"github.com/cofferproject/coffer/guest/proc"
	"github.com/cofferproject/coffer/guest/restapi"
)

// Under the published daemons' names coffer-guest replaces them one by one in a
// guest that is not ours (shared spec guest-components, sections 1, 2 and 5). Its
// init has bound initdata; configuration files beside initdata are not read,
// since nothing measures them.

// publishedInitdata is where the published guests keep the document.
const publishedInitdata = "/run/confidential-containers/initdata/initdata.toml"

// Private socket paths for the half that the process is not asked for.
const (
	spareCDHSocket = "/run/coffer/spare/cdh.sock"
	spareAASocket  = "/run/coffer/spare/attestation-agent.sock"
)

// published gives the entry point of a published daemon.
func (opt *Options) published(name string) (func(ctx context.Context, log *slog.Logger, args []string) error, bool) {
	switch name {
	case "attestation-agent":
		return opt.attestationAgent, true
	case "confidential-data-hub":
		return opt.dataHub, true
	case "api-server-rest":
		return apiServerREST, true
	}
	return nil, false
}

// standalone runs a daemon that no init of ours has confined.
func standalone(name string, run func(ctx context.Context, log *slog.Logger, args []string) error, args []string) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", name)
	if err := proc.HideMemory(); err != nil {
		log.Error("daemon failed", "err", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()
	if err := run(ctx, log, args); err != nil {
		log.Error("daemon failed", "err", err)
		return 1
	}
	return 0
}

func (opt *Options) attestationAgent(ctx context.Context, log *slog.Logger, args []string) error {
	fs := flag.NewFlagSet("attestation-agent", flag.ContinueOnError)
	sock, doc := "unix://"+keyholder.AASocket, ""
	for _, n := range []string{"a", "attestation_sock"} {
		fs.StringVar(&sock, n, sock, "URI of the socket to serve")
	}
	for _, n := range []string{"t", "initdata-toml"} {
		fs.StringVar(&doc, n, "", "initdata document")
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	path, err := unixPath(sock)
	if err != nil {
		return err
	}
	return opt.keyDaemon(ctx, log, doc, keyholder.Config{AASocket: path, CDHSocket: spareCDHSocket})
}

func (opt *Options) dataHub(ctx context.Context, log *slog.Logger, args []string) error {
	fs := flag.NewFlagSet("confidential-data-hub", flag.ContinueOnError)
	if err := fs.Parse(args); err != nil {
		return err
	}
	return opt.keyDaemon(ctx, log, publishedInitdata, keyholder.Config{AASocket: spareAASocket, EventsElsewhere: true})
}

func (opt *Options) keyDaemon(ctx context.Context, log *slog.Logger, doc string, cfg keyholder.Config) error {
	var err error
	if doc != "" {
		if cfg.Initdata, err = readDocument(doc); err != nil {
			return err
		}
	}
	if cfg.Floor, err = boot.Floor(); err != nil {
		// Another guest's image has no such file: then this binary's own build is
		// unknown and only a constant is left.
		cfg.Floor = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	}
	cfg.OpenAttester, cfg.Logger = func() (keyholder.Attester, error) { return opt.OpenAttester(log) }, log
	cfg.OpenDevices = opt.OpenDevices
	s, err := keyholder.New(cfg)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

func readDocument(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading initdata: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, initdata.MaxPlain+1))
	if err != nil {
		return nil, fmt.Errorf("reading initdata: %w", err)
	}
	if len(b) > initdata.MaxPlain {
		return nil, fmt.Errorf("reading initdata: more than %d bytes", initdata.MaxPlain)
	}
	return b, nil
}

func apiServerREST(ctx context.Context, log *slog.Logger, args []string) error {
	fs := flag.NewFlagSet("api-server-rest", flag.ContinueOnError)
	bind, cdh := restapi.DefaultAddr, "unix://"+keyholder.CDHSocket
	for _, n := range []string{"b", "bind"} {
		fs.StringVar(&bind, n, bind, "address to serve")
	}
	features := fs.String("features", "resource", "resource")
	fs.StringVar(&cdh, "cdh_addr", cdh, "URI of the data hub's socket")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *features != "resource" {
		return fmt.Errorf("features %q: only resource is served yet", *features)
	}
	path, err := unixPath(cdh)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", bind)
	if err != nil {
		return err
	}
	if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		return errors.Join(fmt.Errorf("address %s is not on loopback", bind), l.Close())
	}
	return restapi.Run(ctx, restapi.Config{Listener: l, CDHSocket: path, Logger: log})
}

func unixPath(uri string) (string, error) {
	p, ok := strings.CutPrefix(uri, "unix://")
	if !ok || !strings.HasPrefix(p, "/") {
		return "", fmt.Errorf("socket %q: only unix:///... is served", uri)
	}
	return p, nil
}
