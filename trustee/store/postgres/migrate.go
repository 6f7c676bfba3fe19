package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// migrations bring an empty database up to date, one step for each version; a
// step is never changed once it was released. Every step must leave what the
// version before can work with, because a rolling upgrade has both.
var migrations = []string{
	// Names are bytes, so that their order does not depend on a locale.
	`CREATE TABLE coffer.kv (
		bucket bytea NOT NULL,
		key    bytea NOT NULL,
		value  bytea NOT NULL,
		PRIMARY KEY (bucket, key)
	)`,
	// What each process has committed last. at tells rows of processes that are no more.
	`CREATE TABLE coffer.writers (
		writer bytea PRIMARY KEY,
		last   bytea NOT NULL,
		at     timestamptz NOT NULL DEFAULT now()
	)`,
}

// ErrNewer says that a later coffer-trustee has changed the tables.
var ErrNewer = errors.New("the database is of a newer coffer-trustee")

// migrate brings the tables up to date; replicas that start together take turns.
func (s *Store) migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 6*callTimeout)
	defer cancel()
	return pgx.BeginFunc(ctx, s.pool, func(t pgx.Tx) error {
		if _, err := t.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock(%d)", int64(migrateLock))); err != nil {
			return fmt.Errorf("waiting for another migration: %w", err)
		}
		var there bool
		if err := t.QueryRow(ctx, "SELECT to_regclass('coffer.schema_version') IS NOT NULL").Scan(&there); err != nil {
			return fmt.Errorf("looking for the tables: %w", err)
		}
		have := 0
		if there {
			if err := t.QueryRow(ctx, "SELECT version FROM coffer.schema_version").Scan(&have); err != nil {
				return fmt.Errorf("reading the schema's version: %w", err)
			}
		} else if _, err := t.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS coffer;
			CREATE TABLE coffer.schema_version (one boolean PRIMARY KEY DEFAULT true CHECK (one), version integer NOT NULL);
			INSERT INTO coffer.schema_version (version) VALUES (0)`); err != nil {
			return fmt.Errorf("making the schema: %w", err)
		}
		if have > len(migrations) {
			return fmt.Errorf("%w: schema %d, known are those up to %d", ErrNewer, have, len(migrations))
		}
		if have == len(migrations) {
			_, err := t.Exec(ctx, "DELETE FROM coffer.writers WHERE at < now() - interval '30 days'")
			return err
		}
		for i, m := range migrations[have:] {
			if _, err := t.Exec(ctx, m); err != nil {
				return fmt.Errorf("migration %d: %w", have+i+1, err)
			}
		}
		if _, err := t.Exec(ctx, "UPDATE coffer.schema_version SET version = $1", len(migrations)); err != nil {
			return fmt.Errorf("noting the schema's version: %w", err)
		}
		return nil
	})
}
