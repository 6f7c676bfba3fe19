package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"

	"github.com/cofferproject/coffer/trustee/store"
)

// Dump implements store.Dumper. It may take its time: it holds nobody up.
func (s *Store) Dump(ctx context.Context, visit func(bucket, key string, value []byte) error) error {
	return s.long(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(t pgx.Tx) error {
		if _, err := t.Exec(ctx, "DECLARE dump NO SCROLL CURSOR FOR SELECT bucket, key, value FROM coffer.kv ORDER BY bucket, key"); err != nil {
			return unavailable(err)
		}
		for {
			n := 0
			rows, err := t.Query(ctx, fmt.Sprintf("FETCH %d FROM dump", lastPage))
			if err != nil {
				return unavailable(err)
			}
			for rows.Next() {
				var b, k, v []byte
				if err := rows.Scan(&b, &k, &v); err != nil {
					rows.Close()
					return unavailable(err)
				}
				if err := visit(string(b), string(k), v); err != nil {
					rows.Close()
					return err
				}
				n++
			}
			if err := rows.Err(); err != nil {
				return unavailable(err)
			}
			if n == 0 {
				return nil
			}
		}
	})
}

// Load implements store.Loader.
func (s *Store) Load(ctx context.Context, next func() (bucket, key string, value []byte, err error)) error {
	return s.long(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(t pgx.Tx) error {
		if _, err := t.Exec(ctx, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", int64(writeLock))); err != nil {
			return unavailable(err)
		}
		var some bool
		if err := t.QueryRow(ctx, "SELECT EXISTS (SELECT FROM coffer.kv)").Scan(&some); err != nil {
			return unavailable(err)
		}
		if some {
			return store.ErrNotEmpty
		}
		src := &source{next: next}
		_, err := t.CopyFrom(ctx, pgx.Identifier{"coffer", "kv"}, []string{"bucket", "key", "value"}, pgx.CopyFromFunc(src.row))
		if src.err != nil {
			return src.err
		}
		if err != nil {
			return unavailable(err)
		}
		return nil
	})
}

// source gives what is loaded as rows.
type source struct {
	next func() (bucket, key string, value []byte, err error)
	err  error
}

func (s *source) row() ([]any, error) {
	b, k, v, err := s.next()
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err == nil {
		err = store.CheckPut(b, k, v)
	}
	if err != nil {
		s.err = err
		return nil, err
	}
	if v == nil {
		v = []byte{}
	}
	return []any{[]byte(b), []byte(k), v}, nil
}

// long runs a transaction that the limits of requests are not for.
func (s *Store) long(ctx context.Context, o pgx.TxOptions, fn func(pgx.Tx) error) error {
	if s.closed.Load() {
		return store.ErrClosed
	}
	err := pgx.BeginTxFunc(ctx, s.pool, o, func(t pgx.Tx) error {
		if _, err := t.Exec(ctx, "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"); err != nil {
			return unavailable(err)
		}
		return fn(t)
	})
	// Beginning and committing fail by the database alone.
	if err != nil && !errors.Is(err, store.ErrUnavailable) && isDatabase(err) {
		return unavailable(err)
	}
	return err
}
