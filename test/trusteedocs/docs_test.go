// Package trusteedocs runs the commands of docs/trustee/ha.md and backup.md, in
// their order, with the real programs and a real database.
//
// Trust zone: tests only.
package trusteedocs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/trusteeclient"
	"github.com/cofferproject/coffer/trustee/server"
	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
)

// snippets gives the ```sh blocks of a document.
func snippets(t *testing.T, doc string) (out []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../docs/trustee", doc))
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(b), "\n```")
	for i := 1; i < len(parts); i += 2 {
		if s, ok := strings.CutPrefix(parts[i], "sh\n"); ok {
			out = append(out, s)
		}
	}
	if len(out) < 3 {
		t.Fatalf("%s: %d snippets: the search is broken", doc, len(out))
	}
	return out
}

// build gives a folder with coffer-trustee.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	c := exec.Command("go", "build", "-o", dir, "../../cmd/coffer-trustee")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("building: %v: %s", err, out)
	}
	return dir
}

// run runs a script in a folder; what it starts in the background ends with the
// test.
func run(t *testing.T, pg *pgtest.Server, bin, dir, script string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	// The database's programs of every version come with the server.
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		t.Fatal("no PostgreSQL")
	}
	c := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", strings.ReplaceAll(script, "/run/postgresql", pg.Dir()))
	c.Dir = dir
	c.Env = append(os.Environ(), "PATH="+bin+":"+found[len(found)-1]+":"+os.Getenv("PATH"), "PGUSER=coffer")
	var out bytes.Buffer
	log, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log // files, so that background processes do not hold it up
	if err := c.Run(); err != nil {
		b, _ := os.ReadFile(log.Name())
		out.Write(b)
		t.Fatalf("%v:\n%s\n%s", err, script, out.String())
	}
}

func client(t *testing.T, state string) *trusteeclient.Client {
	t.Helper()
	cfg, err := trusteeclient.LoadConfig(state)
	if err != nil {
		t.Fatal(err)
	}
	c, err := trusteeclient.DialConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

const secret = "default/db/password"

// has reports whether a trustee knows the secret of the test.
func has(t *testing.T, c *trusteeclient.Client) bool {
	t.Helper()
	l, err := c.Namespace(trusteeapi.DefaultNamespace).ListResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(l) == 1 && l[0].Name == secret && l[0].Size == sha256.Size
}

func put(t *testing.T, c *trusteeclient.Client) {
	t.Helper()
	s := sha256.Sum256([]byte(secret))
	if _, err := c.Namespace(trusteeapi.DefaultNamespace).PutResource(t.Context(), secret, s[:]); err != nil {
		t.Fatal(err)
	}
}

// TestReplicas follows docs/trustee/ha.md.
func TestReplicas(t *testing.T) {
	pg, bin, dir := pgtest.Start(t), build(t), t.TempDir()
	t.Cleanup(func() { // the replicas that the document starts
		for i := range 3 {
			if b, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("replica-%d/client.json", i+1))); err == nil {
				if cfg, err := trusteeclient.LoadConfig(filepath.Join(dir, fmt.Sprintf("replica-%d", i+1))); err == nil && len(b) > 0 {
					if p, err := os.FindProcess(cfg.PID); err == nil {
						_ = p.Signal(os.Interrupt)
					}
				}
			}
		}
	})
	script := strings.Join(snippets(t, "ha.md"), "\n")
	for _, port := range []string{"8441", "8442", "8443"} { // others may use these
		script = strings.ReplaceAll(script, port, freePort(t))
	}
	run(t, pg, bin, dir, script)
	var admin string
	for i := range 3 {
		if _, err := os.Stat(filepath.Join(dir, fmt.Sprintf("replica-%d/admin.key", i+1))); err == nil {
			admin = fmt.Sprintf("replica-%d", i+1)
		}
	}
	if admin == "" {
		t.Fatal("no replica has made an administrator")
	}
	cfg, err := trusteeclient.LoadConfig(filepath.Join(dir, admin))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		other, err := trusteeclient.LoadConfig(filepath.Join(dir, fmt.Sprintf("replica-%d", i+1)))
		if err != nil {
			t.Fatal(err)
		}
		cfg.URL = other.URL
		c, err := trusteeclient.DialConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i == 0 {
			put(t, c)
		}
		if !has(t, c) {
			t.Errorf("replica %d does not know what was put at the first", i+1)
		}
	}
}

// TestBackup follows docs/trustee/backup.md and starts trustees on what it has
// restored.
func TestBackup(t *testing.T) {
	pg, bin, dir := pgtest.Start(t), build(t), t.TempDir()
	state := filepath.Join(dir, "state")
	start := func(c server.Config) *server.Server {
		t.Helper()
		c.Listen, c.Log, c.Now = "127.0.0.1:0", slog.New(slog.DiscardHandler), time.Now
		s, err := server.Start(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	end := func(s *server.Server) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	}
	running := start(server.Config{State: state})
	put(t, client(t, state))
	// The database of the second snippet is a cluster with the same envelope key.
	url := pg.Database("coffer")
	end(start(server.Config{State: filepath.Join(dir, "replica"), Database: url, EnvelopeKey: filepath.Join(state, "envelope.key")}))
	run(t, pg, bin, dir, strings.Join(snippets(t, "backup.md"), "\n"))
	end(running)
	for _, f := range []string{"monday.backup", "tuesday.backup"} {
		if st, err := os.Stat(filepath.Join(dir, f)); err != nil || st.Size() == 0 || st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", f, st, err)
		}
	}
	for name, c := range map[string]server.Config{
		"embedded": {State: filepath.Join(dir, "restored")},
		"database": {State: filepath.Join(dir, "moved"), Database: pg.URL("moved"), EnvelopeKey: filepath.Join(state, "envelope.key")},
	} {
		if err := os.MkdirAll(c.State, 0o700); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(state, "admin.key"))
		if err == nil {
			err = os.WriteFile(filepath.Join(c.State, "admin.key"), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		s := start(c)
		if !has(t, client(t, c.State)) {
			t.Errorf("%s: the secret is not there", name)
		}
		end(s)
	}
}
