package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Foreign checks the way to a database of somebody else's, from which something is
// brought over, by the same rules as the way to our own: no password in the string,
// verified TLS beyond this machine. Its settings are left alone.
func Foreign(url string) (*pgx.ConnConfig, error) {
	if err := noPassword(url); err != nil {
		return nil, err
	}
	c, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("postgres: connection string: %w", err)
	}
	if err := protected(&c.Config); err != nil {
		return nil, err
	}
	c.ConnectTimeout = dialTimeout
	c.RuntimeParams["application_name"] = "coffer-trustee import"
	// What a server that hangs does not answer is given up.
	c.RuntimeParams["statement_timeout"] = "60000"
	c.ValidateConnect = func(context.Context, *pgconn.PgConn) error { return nil } // a standby is good enough to read from
	return c, nil
}

func noPassword(s string) error {
	if hasPassword(s) {
		return errors.New("postgres: the connection string holds a password, which others can read where it is: put it into a password file (PGPASSFILE)")
	}
	return nil
}
