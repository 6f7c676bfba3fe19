package migrate

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/cofferproject/coffer/trustee/store/postgres"
)

// PostgreSQL is a source: a database with a table for each store, of a key (text) and a
// value (bytea). All is read from one state of it. Its password is in a password file.
func PostgreSQL(url string) (Source, error) {
	conf, err := postgres.Foreign(url)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]Item, error) {
		c, err := pgx.ConnectConfig(ctx, conf)
		if err != nil {
			return nil, fmt.Errorf("postgres: %w", err)
		}
		defer func() { _ = c.Close(context.WithoutCancel(ctx)) }() // all is read by then
		tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			return nil, fmt.Errorf("postgres: %w", err)
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing was changed
		var out []Item
		for _, store := range stores {
			items, err := readTable(ctx, tx, store)
			if err != nil {
				return nil, fmt.Errorf("postgres: table %s: %w", store, err)
			}
			if out = append(out, items...); len(out) > maxItems {
				return nil, fmt.Errorf("postgres: more than %d entries", maxItems)
			}
		}
		return out, nil
	}, nil
}

// readTable reads one store; a table that is not there is an empty one.
func readTable(ctx context.Context, tx pgx.Tx, store string) ([]Item, error) {
	table := pgx.Identifier{store}.Sanitize()
	var kinds []string
	if err := tx.QueryRow(ctx, `SELECT coalesce(array_agg(attname || ' ' || format_type(atttypid, NULL)), '{}')
		FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname IN ('key', 'value') AND NOT attisdropped`, table).Scan(&kinds); err != nil {
		return nil, err
	}
	var there bool
	if err := tx.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", table).Scan(&there); err != nil || !there {
		return nil, err
	}
	key, value := false, false
	for _, k := range kinds {
		key = key || k == "key text" || k == "key character varying"
		value = value || k == "value bytea"
	}
	if !key || !value {
		return nil, fmt.Errorf("not a key (text) and a value (bytea), but %q", kinds)
	}
	// No more of a value than the bound is ever sent, and no more keys.
	rows, err := tx.Query(ctx, fmt.Sprintf("SELECT key, substring(value FROM 1 FOR %d) FROM %s ORDER BY key LIMIT %d", maxFile+1, table, maxItems+1))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Item
	total := 0
	for rows.Next() {
		it := Item{Store: store}
		if err := rows.Scan(&it.Key, &it.data); err != nil {
			return nil, err
		}
		switch {
		case it.data == nil:
			it.refuse("no value")
		case len(it.data) > maxFile:
			clear(it.data)
			it.data = nil
			it.refuse(fmt.Sprintf("more than %d bytes", maxFile))
		}
		if total += len(it.data); total > maxTotal {
			return nil, fmt.Errorf("more than %d bytes", maxTotal)
		}
		out = append(out, it)
	}
	return out, rows.Err()
}
