package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Config makes a Store.
type Config struct {
	// URL is a connection URL or string of libpq, without a password: that is in
	// a password file (PGPASSFILE, ~/.pgpass) or is a client certificate.
	URL string
	// Connections is the most that are open at once; 0: 8.
	Connections int
	// Patience is how long one call waits for a database that has gone away; 0: 2 s.
	Patience time.Duration
	Log      *slog.Logger
}

const (
	defaultConnections = 8
	maxConnections     = 1000
	defaultPatience    = 2 * time.Second
	dialTimeout        = 2 * time.Second
	// callTimeout bounds one transaction: a server that hangs is one that has gone.
	callTimeout = 10 * time.Second
)

// settings hold for every connection. What a replica that was cut off has begun
// ends on the server before long, so that it does not keep the others waiting.
func settings() map[string]string {
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	return map[string]string{
		"application_name":                    "coffer-trustee",
		"lock_timeout":                        ms(callTimeout / 2),
		"statement_timeout":                   ms(callTimeout),
		"idle_in_transaction_session_timeout": ms(callTimeout),
	}
}

// parse checks what must hold before anything is sent to a database.
func parse(c Config) (*pgxpool.Config, error) {
	if c.Log == nil {
		return nil, errors.New("postgres: logger missing")
	}
	if err := noPassword(c.URL); err != nil {
		return nil, err
	}
	p, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, fmt.Errorf("postgres: connection string: %w", err)
	}
	if c.Connections < 0 || c.Connections == 1 || c.Connections > maxConnections {
		return nil, fmt.Errorf("postgres: %d connections: at least 2, at most %d", c.Connections, maxConnections)
	}
	p.MaxConns = int32(c.Connections)
	if c.Connections == 0 {
		p.MaxConns = defaultConnections
	}
	p.MinConns = 0
	p.MaxConnIdleTime = 5 * time.Minute
	if err := protected(&p.ConnConfig.Config); err != nil {
		return nil, err
	}
	p.ConnConfig.ConnectTimeout = dialTimeout
	for k, v := range settings() {
		p.ConnConfig.RuntimeParams[k] = v
	}
	// Of several servers only the one that takes changes is meant: a standby may
	// be behind, and would show what was withdrawn.
	p.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	p.ConnConfig.AfterConnect = durable
	return p, nil
}

func hasPassword(s string) bool { return strings.Contains(s, "password=") || hasURLPassword(s) }

func hasURLPassword(s string) bool {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme != "postgres" && scheme != "postgresql" {
		return false
	}
	authority, _, _ := strings.Cut(rest, "/")
	user, _, ok := cutLast(authority, "@")
	return ok && strings.Contains(user, ":")
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// protected demands that every way to a server on another machine is TLS with
// the server's name and chain verified (sslmode=verify-full).
func protected(c *pgconn.Config) error {
	ways := []struct {
		host string
		tls  *tls.Config
	}{{c.Host, c.TLSConfig}}
	for _, f := range c.Fallbacks {
		ways = append(ways, struct {
			host string
			tls  *tls.Config
		}{f.Host, f.TLSConfig})
	}
	for _, w := range ways {
		if local(w.host) {
			continue
		}
		if w.tls == nil || w.tls.InsecureSkipVerify {
			return fmt.Errorf("postgres: the way to %s is not protected: sslmode=verify-full is needed, and sslrootcert", w.host)
		}
	}
	return nil
}

// local reports whether a host is this machine: a Unix socket's folder or a
// loopback address.
func local(host string) bool {
	if strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// ErrNotDurable says that the server does not keep what it acknowledges.
var ErrNotDurable = errors.New("postgres: the server would lose what it has acknowledged")

// durable refuses a server that acknowledges before it has written, and has this
// connection wait for the disk where only that is switched off. More than that
// (standbys) is the server's configuration and is left as it is.
func durable(ctx context.Context, c *pgconn.PgConn) error {
	fsync, err := show(ctx, c, "fsync")
	if err != nil {
		return err
	}
	if fsync != "on" {
		return fmt.Errorf("%w: fsync is %s", ErrNotDurable, fsync)
	}
	wait, err := show(ctx, c, "synchronous_commit")
	if err != nil {
		return err
	}
	if wait == "off" {
		return c.Exec(ctx, "SET synchronous_commit = on").Close()
	}
	return nil
}

func show(ctx context.Context, c *pgconn.PgConn, name string) (string, error) {
	r, err := c.Exec(ctx, "SHOW "+name).ReadAll()
	if err != nil {
		return "", err
	}
	if len(r) != 1 || len(r[0].Rows) != 1 || len(r[0].Rows[0]) != 1 {
		return "", fmt.Errorf("postgres: no setting %s", name)
	}
	return string(r[0].Rows[0][0]), nil
}
