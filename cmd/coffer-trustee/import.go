package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/migrate"
	"github.com/cofferproject/coffer/trustee/server"
)

// importStores is `coffer-trustee import`.
func importStores(args []string) error {
	f := flag.NewFlagSet("coffer-trustee import", flag.ContinueOnError)
	c := server.Config{Now: time.Now, Log: slog.New(slog.NewJSONHandler(os.Stderr, nil))}
	var o migrate.Options
	f.StringVar(&c.State, "state", "", "folder of all state (default $COFFER_STATE/trustee, or ~/.local/share/coffer/trustee); no server may run on it, and with --database the folder of a replica of its own")
	var from source
	f.StringVar(&from.at, "from", "", "what to import: folder of the LocalFs or LocalJson store (the one with repository, reference_value, ... in it), or redis://, rediss://, postgres:// and an address without a password")
	f.StringVar(&from.passwordFile, "from-password", "", "file with the password of the Redis server (PostgreSQL: PGPASSFILE)")
	f.StringVar(&from.ca, "from-ca", "", "certificates (PEM) of who issues the Redis server's certificate (default: the machine's; PostgreSQL: sslrootcert)")
	databaseFlags(f, &c)
	ns := f.String("namespace", trusteeapi.DefaultNamespace, "namespace to bring things to; it is there already")
	f.BoolVar(&o.DryRun, "dry-run", false, "only report")
	f.BoolVar(&o.Replace, "replace", false, "take the place of what is there already; a secret's next version goes to whom its binding names")
	c.Limits = limits.Defaults()
	f.Func("limit", "NAME=N, how many of something are kept, as for serve; may be repeated (docs/trustee.md)", c.Limits.Change)
	output := f.String("output", "text", "form of the report: text or json")
	if err := f.Parse(args); err != nil {
		return err
	}
	if from.at == "" || f.NArg() > 0 || *output != "text" && *output != "json" {
		return errors.New("import: give --from DIR or URL, --output text or json, and no arguments")
	}
	if c.State == "" {
		var err error
		if c.State, err = defaultState(); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	src, err := from.open()
	if err != nil {
		return err
	}
	r, err := server.Import(ctx, c, src, *ns, o)
	if err != nil {
		return err
	}
	if *output == "json" {
		err = json.NewEncoder(os.Stdout).Encode(r)
	} else {
		err = report(os.Stdout, r)
	}
	if err == nil && r.Counts[migrate.Refuse] > 0 {
		err = fmt.Errorf("%d entries were refused", r.Counts[migrate.Refuse])
	}
	return err
}

// source says where the existing services keep their things.
type source struct{ at, passwordFile, ca string }

func (s *source) open() (migrate.Source, error) {
	scheme, _, _ := strings.Cut(s.at, "://")
	redis := scheme == "redis" || scheme == "rediss"
	if !redis && (s.passwordFile != "" || s.ca != "") {
		return nil, errors.New("import: --from-password and --from-ca are for redis:// and rediss://")
	}
	switch {
	case redis:
		return s.redis()
	case scheme == "postgres" || scheme == "postgresql":
		return migrate.PostgreSQL(s.at)
	case strings.Contains(s.at, "://"):
		return nil, fmt.Errorf("import: --from: scheme %.20q is none of redis, rediss, postgres", scheme)
	}
	return migrate.Folder(s.at), nil
}

const maxSmallFile = 1 << 20 // bytes of a password or of certificates

func (s *source) redis() (migrate.Source, error) {
	r := migrate.RedisServer{URL: s.at}
	if s.passwordFile != "" {
		b, err := readSmall(s.passwordFile)
		if err != nil {
			return nil, fmt.Errorf("import: --from-password: %w", err)
		}
		if r.Password = strings.TrimRight(string(b), "\r\n"); r.Password == "" {
			return nil, errors.New("import: --from-password: the file is empty")
		}
	}
	if s.ca != "" {
		b, err := readSmall(s.ca)
		if err != nil {
			return nil, fmt.Errorf("import: --from-ca: %w", err)
		}
		r.Authorities = x509.NewCertPool()
		if !r.Authorities.AppendCertsFromPEM(b) {
			return nil, errors.New("import: --from-ca: the file holds no certificate")
		}
	}
	return migrate.Redis(r)
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err == nil && len(b) > maxSmallFile {
		err = fmt.Errorf("more than %d bytes", maxSmallFile)
	}
	return b, err
}

// report prints one line for each entry. Names come from a folder of somebody
// else's, so they are quoted.
func report(w io.Writer, r *migrate.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, it := range r.Items {
		fmt.Fprintf(t, "%s\t%q\t%s\t%s\n", it.Action, it.Store+"/"+it.Key, it.As, it.Why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	dry := ""
	if r.DryRun {
		dry = " (dry run: nothing was changed)"
	}
	_, err := fmt.Fprintf(w, "import %d, present %d, skip %d, refuse %d%s\n",
		r.Counts[migrate.Import], r.Counts[migrate.Present], r.Counts[migrate.Skip], r.Counts[migrate.Refuse], dry)
	return err
}
