// Package postgres keeps the trustee's state in a PostgreSQL database (13 or
// later) that several replicas share. SPEC.md describes the tables.
//
// Invariants: one update at a time over all replicas, so that updates are serial
// exactly as in the embedded store; an update is acknowledged only when the
// server has made it durable, and one whose acknowledgement was lost is looked up
// before anything is said about it; a way to another machine is verified TLS; a
// database that is not there is store.ErrUnavailable and never an empty answer.
//
// Trust zone: trustee. Whoever owns the database can read what is not encrypted,
// delete and roll back; package authentic keeps them from adding and changing.
package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/internal/group"
)

// Store implements store.Store, store.Dumper, store.Loader and store.Health.
type Store struct {
	pool     *pgxpool.Pool
	writes   *group.Committer
	writer   []byte // this process's row of coffer.writers
	patience time.Duration
	log      *slog.Logger

	closed  atomic.Bool
	down    atomic.Pointer[string] // since when nothing can be reached: why
	stop    context.CancelFunc
	watched chan struct{}

	// testLostCommit loses the answer to a commit, for tests.
	testLostCommit func(c *pgxpool.Conn, commit string)
}

// Open connects, brings the tables up to date and watches the database. It fails
// where the database cannot be reached.
func Open(ctx context.Context, c Config) (*Store, error) {
	p, err := parse(c)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), p)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	s := &Store{pool: pool, patience: c.Patience, log: c.Log, watched: make(chan struct{}), writer: random()}
	if s.patience == 0 {
		s.patience = defaultPatience
	}
	if err := s.migrate(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("postgres: %w", err)
	}
	s.writes = group.New(maxGroup, s.transact)
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	go s.watch(watching)
	return s, nil
}

// View implements store.Store.
func (s *Store) View(ctx context.Context, fn func(store.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.closed.Load() {
		return store.ErrClosed
	}
	// A peer that hangs up must not cost a connection to the database.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	// fn runs once, so only what comes before it is tried again.
	conn, err := s.begin(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	if err != nil {
		return err
	}
	x := &tx{ctx: ctx, conn: conn}
	err = x.outcome(fn(x))
	if _, e := conn.Exec(ctx, "ROLLBACK"); e != nil {
		drop(conn)
	}
	conn.Release()
	return err
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) error {
	// What is queued may be waiting for its outcome; nobody else has to join it.
	if why := s.down.Load(); why != nil && !s.closed.Load() {
		return unavailable(errors.New(*why))
	}
	return s.writes.Update(ctx, fn)
}

// Close waits for what was queued.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.writes.Close()
	s.stop()
	<-s.watched
	s.pool.Close()
	return nil
}

// maxGroup is how many updates share a commit: over a slow network, too, they must
// be done within callTimeout.
const maxGroup = 64

// writeLock names the advisory lock that an update holds, and the lock of
// migrations: "coffer" and a number.
const (
	writeLock   = 0x636f_6666_6572_0001
	migrateLock = 0x636f_6666_6572_0002
)

// transact is one durable transaction, alone over all replicas.
func (s *Store) transact(fn func(store.Tx) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	var last error
	for start := time.Now(); ; {
		again, err := s.attempt(ctx, fn)
		if !again {
			return err
		}
		last = err
		if time.Since(start) > s.patience || !pause(ctx) {
			return last
		}
	}
}

// attempt reports whether the transaction did not happen by a fault of the
// database, so that it may be tried again.
func (s *Store) attempt(ctx context.Context, fn func(store.Tx) error) (again bool, err error) {
	conn, err := s.begin(ctx, beginUpdate)
	if err != nil {
		return false, err // begin has been patient
	}
	defer conn.Release()
	x := &tx{ctx: ctx, conn: conn}
	err = x.outcome(fn(x))
	if x.fault != nil {
		rollback(ctx, conn)
		return lostConnection(x.fault), err
	}
	if err != nil {
		rollback(ctx, conn)
		return false, err
	}
	mark := random()
	commit := fmt.Sprintf(`INSERT INTO coffer.writers (writer, last) VALUES ('\x%x', '\x%x')
		ON CONFLICT (writer) DO UPDATE SET last = EXCLUDED.last, at = now(); COMMIT`, s.writer, mark)
	if s.testLostCommit != nil {
		s.testLostCommit(conn, commit)
	}
	tag, err := conn.Exec(ctx, commit)
	switch {
	case err == nil && tag.String() == "COMMIT":
		return false, nil
	case err == nil: // the server rolled back
		return false, unavailable(fmt.Errorf("commit became %s", tag))
	}
	drop(conn)
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && !lostConnection(err) {
		return false, unavailable(err) // the server said no
	}
	return s.settle(mark, err)
}

// settle finds out what became of a commit whose answer was lost: what the
// transaction with mark has left is read under the lock that it held. A transaction's
// number would not do: one that was lost with its server is given out again. The reading
// is a durable change itself, so that a commit that still waited for a standby counts
// when the standby has it.
func (s *Store) settle(mark []byte, cause error) (again bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	for {
		ours, err := s.lookUp(ctx, mark)
		switch {
		case err == nil && ours:
			return false, nil
		case err == nil:
			return true, unavailable(cause)
		}
		if !pause(ctx) {
			return false, fmt.Errorf("%w: %w", store.ErrUnknown, cause)
		}
	}
}

// lookUp reports whether mark is what this process committed last.
func (s *Store) lookUp(ctx context.Context, mark []byte) (ours bool, err error) {
	conn, err := s.tryBegin(ctx, beginUpdate)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	if err := conn.QueryRow(ctx, `INSERT INTO coffer.writers AS w (writer, last) VALUES ($1, '')
		ON CONFLICT (writer) DO UPDATE SET at = now() RETURNING w.last = $2`, s.writer, mark).Scan(&ours); err != nil {
		rollback(ctx, conn)
		return false, err
	}
	tag, err := conn.Exec(ctx, "COMMIT")
	if err == nil && tag.String() != "COMMIT" {
		err = fmt.Errorf("commit became %s", tag)
	}
	if err != nil {
		drop(conn)
	}
	return ours, err
}

// random gives 16 bytes that nobody else has.
func random() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails
	return b
}

// beginUpdate begins an update. The lock comes first: every later statement sees what
// its last holder did.
var beginUpdate = fmt.Sprintf("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT pg_advisory_xact_lock(%d)", int64(writeLock))

// begin gives a connection in a transaction. It tries until the patience ends.
func (s *Store) begin(ctx context.Context, begin string) (*pgxpool.Conn, error) {
	if why := s.down.Load(); why != nil {
		return nil, unavailable(errors.New(*why))
	}
	ctx, cancel := context.WithTimeout(ctx, s.patience+callTimeout/2)
	defer cancel()
	for start := time.Now(); ; {
		conn, err := s.tryBegin(ctx, begin)
		if err == nil {
			return conn, nil
		}
		if time.Since(start) > s.patience || s.closed.Load() || !pause(ctx) {
			return nil, unavailable(err)
		}
	}
}

func (s *Store) tryBegin(ctx context.Context, begin string) (*pgxpool.Conn, error) {
	waiting, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	conn, err := s.pool.Acquire(waiting)
	if err != nil {
		return nil, err
	}
	if _, err = conn.Exec(ctx, begin); err != nil {
		rollback(ctx, conn)
		conn.Release()
		return nil, err
	}
	return conn, nil
}

func rollback(ctx context.Context, conn *pgxpool.Conn) {
	if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
		drop(conn)
	}
}

// drop closes a connection whose state is not known; the pool makes another.
func drop(conn *pgxpool.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_ = conn.Conn().Close(ctx)
}

// pause waits a little; false: ctx has ended.
func pause(ctx context.Context) bool {
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func unavailable(err error) error {
	if errors.Is(err, store.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

// lostConnection reports whether an error is of the connection, or of a server
// that ends (class 57P), or a lock not got in time: nothing of the kind is about
// the statement.
func lostConnection(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return !errors.Is(err, context.DeadlineExceeded)
	}
	switch pg.Code {
	case "57P01", "57P02", "57P03", "25P03", "40001", "40P01", "55P03":
		return true
	}
	return false
}

// isDatabase reports whether an error came from the database or the way to it.
func isDatabase(err error) bool {
	var pg *pgconn.PgError
	var connect *pgconn.ConnectError
	return errors.As(err, &pg) || errors.As(err, &connect) || pgconn.Timeout(err)
}
