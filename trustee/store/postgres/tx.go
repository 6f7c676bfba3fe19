package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cofferproject/coffer/trustee/store"
)

// tx is a transaction on one connection.
type tx struct {
	ctx  context.Context
	conn *pgxpool.Conn
	// fault is the database's first error. After it the transaction can only be
	// rolled back, whatever fn makes of it.
	fault error
}

func (x *tx) failed(err error) error {
	if x.fault == nil {
		x.fault = err
	}
	return unavailable(err)
}

// outcome gives what a transaction comes to: a fault of the database before fn's
// own answer.
func (x *tx) outcome(err error) error {
	if x.fault != nil {
		return unavailable(x.fault)
	}
	return err
}

// ready keeps statements from a transaction that is lost.
func (x *tx) ready() error {
	if x.fault != nil {
		return unavailable(x.fault)
	}
	return nil
}

// Get implements store.Tx.
func (x *tx) Get(bucket, key string) ([]byte, error) {
	if err := x.ready(); err != nil {
		return nil, err
	}
	var v []byte
	err := x.conn.QueryRow(x.ctx, "SELECT value FROM coffer.kv WHERE bucket = $1 AND key = $2", []byte(bucket), []byte(key)).Scan(&v)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, x.failed(err)
	case v == nil:
		v = []byte{}
	}
	return v, nil
}

// Put implements store.Tx.
func (x *tx) Put(bucket, key string, value []byte) error {
	if err := store.CheckPut(bucket, key, value); err != nil {
		return err
	}
	if err := x.ready(); err != nil {
		return err
	}
	if value == nil {
		value = []byte{}
	}
	_, err := x.conn.Exec(x.ctx,
		"INSERT INTO coffer.kv (bucket, key, value) VALUES ($1, $2, $3) ON CONFLICT (bucket, key) DO UPDATE SET value = EXCLUDED.value",
		[]byte(bucket), []byte(key), value)
	if err != nil {
		return x.failed(err)
	}
	return nil
}

// Delete implements store.Tx.
func (x *tx) Delete(bucket, key string) error {
	if err := x.ready(); err != nil {
		return err
	}
	if _, err := x.conn.Exec(x.ctx, "DELETE FROM coffer.kv WHERE bucket = $1 AND key = $2", []byte(bucket), []byte(key)); err != nil {
		return x.failed(err)
	}
	return nil
}

type pair struct {
	key   string
	value []byte
}

// firstPage and lastPage are rows that are read at once: few where fn may stop
// early, more of a bucket that is read whole.
const (
	firstPage = 8
	lastPage  = 256
)

// Scan implements store.Tx.
func (x *tx) Scan(bucket, from string, fn func(string, []byte) (bool, error)) error {
	return x.pages(fn, "SELECT key, value FROM coffer.kv WHERE bucket = $1 AND key >= $2 ORDER BY key LIMIT $3",
		"SELECT key, value FROM coffer.kv WHERE bucket = $1 AND key > $2 ORDER BY key LIMIT $3", []byte(bucket), []byte(from))
}

// ScanBack implements store.Tx.
func (x *tx) ScanBack(bucket string, fn func(string, []byte) (bool, error)) error {
	return x.pages(fn, "SELECT key, value FROM coffer.kv WHERE bucket = $1 AND $2::bytea IS NULL ORDER BY key DESC LIMIT $3",
		"SELECT key, value FROM coffer.kv WHERE bucket = $1 AND key < $2 ORDER BY key DESC LIMIT $3", []byte(bucket), nil)
}

// pages reads a bucket a page at a time: fn may ask for other things meanwhile,
// which one connection cannot answer in the middle of a result.
func (x *tx) pages(fn func(string, []byte) (bool, error), first, next string, bucket, from []byte) error {
	query, at := first, from
	for n := firstPage; ; n = min(2*n, lastPage) {
		page, err := x.page(query, bucket, at, n)
		if err != nil {
			return err
		}
		for _, p := range page {
			if more, err := fn(p.key, p.value); err != nil || !more {
				return err
			}
		}
		if len(page) < n {
			return nil
		}
		query, at = next, []byte(page[len(page)-1].key)
	}
}

func (x *tx) page(query string, bucket, at []byte, n int) ([]pair, error) {
	if err := x.ready(); err != nil {
		return nil, err
	}
	rows, err := x.conn.Query(x.ctx, query, bucket, at, n)
	if err != nil {
		return nil, x.failed(err)
	}
	page, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (p pair, err error) {
		var k []byte
		err = r.Scan(&k, &p.value)
		p.key = string(k)
		return p, err
	})
	if err != nil {
		return nil, x.failed(err)
	}
	return page, nil
}
