package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
	"github.com/cofferproject/coffer/trustee/store/storetest"
)

func open(t testing.TB, url string, change ...func(*Config)) *Store {
	t.Helper()
	c := Config{URL: url, Log: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&c)
	}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestOnOneServer has all tests that leave their server as it was.
func TestOnOneServer(t *testing.T) {
	pg := pgtest.Start(t)
	for name, test := range map[string]func(*testing.T, *pgtest.Server){
		"Conformance": conformance, "LostAnswerToACommit": lostAnswer, "DeadReplicaHoldsNobodyUp": deadReplica, "RefusesAStandby": standby,
		"Migrations": migrating, "FullDisk": fullDisk, "BoundedConnections": bounded, "RefusesADatabaseThatForgets": forgets,
	} {
		t.Run(name, func(t *testing.T) { test(t, pg) })
	}
}

func conformance(t *testing.T, pg *pgtest.Server) {
	n, url := 0, ""
	storetest.Run(t, storetest.Subject{
		Fresh:  func(testing.TB) { n++; url = pg.Database(fmt.Sprintf("suite%d", n)) },
		Open:   func(t testing.TB) store.Store { return open(t, url) },
		Shared: true,
	})
}

func put(s store.Store, key, value string) error {
	return s.Update(context.Background(), func(tx store.Tx) error { return tx.Put("b", key, []byte(value)) })
}

func get(s store.Store, key string) (v string, err error) {
	err = s.View(context.Background(), func(tx store.Tx) error {
		b, err := tx.Get("b", key)
		v = string(b)
		return err
	})
	return v, err
}

// until waits for something to become true.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// TestGoesAwayAndComesBack stops, kills and freezes the database under load: what
// was acknowledged stays, all else is ErrUnavailable, a short absence is waited
// for, and health says what is so.
func TestGoesAwayAndComesBack(t *testing.T) {
	pg := pgtest.Start(t)
	s := open(t, pg.Database("db"), func(c *Config) { c.Patience = 400 * time.Millisecond })
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked := map[string]string{}
	var refused atomic.Int64
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				k := fmt.Sprintf("%d-%d", w, i)
				switch err := put(s, k, k); {
				case err == nil:
					mu.Lock()
					acked[k] = k
					mu.Unlock()
				case errors.Is(err, store.ErrUnavailable):
					refused.Add(1)
					time.Sleep(time.Millisecond)
				default:
					t.Errorf("not ErrUnavailable: %v", err)
				}
				if _, err := get(s, "0-0"); err != nil && !errors.Is(err, store.ErrUnavailable) {
					t.Errorf("not ErrUnavailable: %v", err)
				}
			}
		})
	}
	for name, c := range map[string]struct{ away, back func() }{
		"stop": {pg.Stop, pg.Start}, "kill": {pg.Kill, pg.Start}, "freeze": {pg.Freeze, pg.Thaw},
	} {
		before := refused.Load()
		c.away()
		until(t, name+": health says so", func() bool { return s.Healthy() != nil })
		start := time.Now()
		if err := put(s, "x", "x"); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: update: %v", name, err)
		}
		if _, err := get(s, "x"); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: view: %v", name, err)
		}
		// An update that hangs in a frozen server is waited for, to know its outcome.
		if d := time.Since(start); d > time.Second && name != "freeze" {
			t.Errorf("%s: known to be away, and it took %v to say so", name, d)
		}
		c.back()
		until(t, name+": health says it is back", func() bool { return s.Healthy() == nil })
		until(t, name+": it works again", func() bool { return put(s, name, name) == nil })
		// The others need not have asked between a kill, or a freeze, and the way back.
		if refused.Load() == before && name == "stop" {
			t.Errorf("%s: nothing was refused meanwhile: the test shows nothing", name)
		}
	}
	close(stop)
	wg.Wait()
	for k, v := range acked {
		if got, err := get(s, k); got != v || err != nil {
			t.Errorf("%s was acknowledged and is %q, %v", k, got, err)
		}
	}
	t.Logf("%d acknowledged, %d refused", len(acked), refused.Load())
}

// TestShortRestartIsWaitedFor has nobody notice a restart within the patience.
func TestShortRestartIsWaitedFor(t *testing.T) {
	pg := pgtest.Start(t)
	s := open(t, pg.Database("db"), func(c *Config) { c.Patience = 10 * time.Second })
	if err := put(s, "a", "1"); err != nil {
		t.Fatal(err)
	}
	pg.Stop()
	done := make(chan error, 2)
	go func() { done <- put(s, "b", "2") }()
	go func() { _, err := get(s, "a"); done <- err }()
	time.Sleep(300 * time.Millisecond)
	pg.Start()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if v, err := get(s, "b"); v != "2" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
}

// lostAnswer cuts the connection in the middle of a commit, after
// and before the server has done it: neither is reported as the other, and an
// update is never done twice.
func lostAnswer(t *testing.T, pg *pgtest.Server) {
	s := open(t, pg.Database("lost"))
	for _, committed := range []bool{true, false} {
		runs, cut := 0, false
		s.testLostCommit = func(c *pgxpool.Conn, commit string) {
			if cut {
				return
			}
			cut = true
			if committed {
				if _, err := c.Exec(t.Context(), commit); err != nil {
					t.Error(err)
				}
			}
			drop(c)
		}
		err := s.Update(t.Context(), func(tx store.Tx) error {
			runs++
			v, err := tx.Get("b", "n")
			if err != nil {
				return err
			}
			return tx.Put("b", "n", append(v, 'x'))
		})
		want := map[bool]int{true: 1, false: 2}[committed]
		if err != nil || runs != want || !cut {
			t.Errorf("committed %t: %v after %d runs, want %d", committed, err, runs, want)
		}
	}
	if v, err := get(s, "n"); v != "xx" || err != nil {
		t.Errorf("two updates came to %q, %v", v, err)
	}
}

// deadReplica has a replica vanish while it holds the lock.
func deadReplica(t *testing.T, pg *pgtest.Server) {
	url := pg.Database("dead")
	a, b := open(t, url), open(t, url)
	held, die := make(chan struct{}), make(chan struct{})
	end := sync.OnceFunc(func() { close(die) })
	t.Cleanup(end)
	go func() {
		_ = a.Update(context.Background(), func(tx store.Tx) error {
			_ = tx.Put("b", "another", []byte("of the dead")) // no row that both want
			close(held)
			<-die
			return errors.New("never")
		})
	}()
	<-held
	done := make(chan error, 1)
	go func() { done <- put(b, "k", "of the living") }()
	select {
	case err := <-done:
		t.Fatalf("two updates at once: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	// The server notices a peer that died by its closed connection.
	pg.SQL("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'dead' AND state = 'idle in transaction'")
	if err := <-done; err != nil {
		t.Error(err)
	}
	end()
	if v, err := get(b, "k"); v != "of the living" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if v, err := get(b, "another"); v != "" || err != nil {
		t.Errorf("of the dead is left %q, %v", v, err)
	}
}

func forgets(t *testing.T, pg *pgtest.Server) {
	url := pg.Database("forgets")
	pg.SQL("forgets", "ALTER SYSTEM SET fsync = off")
	pg.SQL("forgets", "SELECT pg_reload_conf()")
	until(t, "fsync is off", func() bool { return pg.SQL("forgets", "SHOW fsync") == "off" })
	if s, err := Open(t.Context(), Config{URL: url, Log: slog.New(slog.DiscardHandler)}); err == nil {
		s.Close()
		t.Error("a server with fsync off was taken")
	} else if !errors.Is(err, ErrNotDurable) {
		t.Error(err)
	}
	pg.SQL("forgets", "ALTER SYSTEM RESET fsync")
	pg.SQL("forgets", "ALTER DATABASE forgets SET synchronous_commit = off")
	pg.SQL("forgets", "SELECT pg_reload_conf()")
	until(t, "fsync is on", func() bool { return pg.SQL("forgets", "SHOW fsync") == "on" })
	s := open(t, url)
	var v string
	if err := s.pool.QueryRow(t.Context(), "SHOW synchronous_commit").Scan(&v); err != nil || v != "on" {
		t.Errorf("synchronous_commit is %q, %v", v, err)
	}
}

func standby(t *testing.T, pg *pgtest.Server) {
	url := pg.Database("standby")
	pg.SQL("standby", "ALTER DATABASE standby SET default_transaction_read_only = on")
	if s, err := Open(t.Context(), Config{URL: url, Log: slog.New(slog.DiscardHandler)}); err == nil {
		s.Close()
		t.Error("a server that takes no changes was taken")
	}
}

// fullDisk has the table's files at their end: an update that needs more is
// ErrUnavailable and leaves nothing, reads go on, and so do updates once there is
// room.
func fullDisk(t *testing.T, pg *pgtest.Server) {
	s := open(t, pg.Database("fulldisk"))
	large := make([]byte, 1<<20)
	rand.Read(large) // PostgreSQL would compress it
	update := func(key string) error {
		return s.Update(t.Context(), func(tx store.Tx) error {
			return errors.Join(tx.Put("b", key, []byte("small")), tx.Put("b", key+" large", large))
		})
	}
	if err := update("before"); err != nil {
		t.Fatal(err)
	}
	pg.FullDisk(2 << 20)
	t.Cleanup(pg.Room)
	stored, failed := 0, false
	for i := range 10 {
		switch err := update(fmt.Sprint(i)); {
		case err == nil && !failed:
			stored = i + 1
		case errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrUnknown):
			failed = true
		default:
			t.Errorf("update %d: %v", i, err)
		}
	}
	if !failed {
		t.Fatal("nothing failed: the test shows nothing")
	}
	for i := range 10 {
		v, err := get(s, fmt.Sprint(i))
		if want := map[bool]string{true: "small"}[i < stored]; v != want || err != nil {
			t.Errorf("update %d of %d that were acknowledged: %q, %v", i, stored, v, err)
		}
	}
	pg.Room()
	if err := update("after"); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if v, err := get(s, "before"); v != "small" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
}

func migrating(t *testing.T, pg *pgtest.Server) {
	url := pg.Database("migrating")
	// Replicas that start at once on an empty database.
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			s, err := Open(t.Context(), Config{URL: url, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := put(s, fmt.Sprint(i), "x"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if v := pg.SQL("migrating", "SELECT version FROM coffer.schema_version"); v != fmt.Sprint(len(migrations)) {
		t.Errorf("schema %s", v)
	}
	pg.SQL("migrating", "UPDATE coffer.schema_version SET version = 1000")
	if s, err := Open(t.Context(), Config{URL: url, Log: slog.New(slog.DiscardHandler)}); err == nil {
		s.Close()
		t.Error("tables of a later version were taken")
	} else if !errors.Is(err, ErrNewer) {
		t.Error(err)
	}
}

func bounded(t *testing.T, pg *pgtest.Server) {
	s := open(t, pg.Database("bounded"), func(c *Config) { c.Connections = 3; c.Patience = 5 * time.Second })
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if err := s.View(t.Context(), func(tx store.Tx) error { _, err := tx.Get("b", "k"); return err }); err != nil {
				t.Error(err)
			}
		})
	}
	most := 0
	for range 10 {
		n := 0
		fmt.Sscan(pg.SQL("postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = 'bounded'"), &n)
		most = max(most, n)
	}
	wg.Wait()
	if most > 3+1 { // and the one that watches
		t.Errorf("%d connections", most)
	}
}

func TestConnectionStrings(t *testing.T) {
	for _, c := range []struct{ url, fault string }{
		{"postgres://u:secret@localhost/db", "password"},
		{"postgres://u@localhost/db?password=secret", "password"},
		{"host=localhost password=secret", "password"},
		{"postgres://u@db.example.com/db", "verify-full"},
		{"postgres://u@db.example.com/db?sslmode=require", "verify-full"},
		{"postgres://u@db.example.com/db?sslmode=prefer", "verify-full"},
		{"postgres://u@db.example.com/db?sslmode=disable", "verify-full"},
		{"postgres://u@db.example.com,localhost/db?sslmode=disable", "verify-full"},
		{"postgres://u@localhost,192.0.2.1/db?sslmode=disable", "verify-full"},
		{"postgres://u@db.example.com/db?sslmode=verify-full", ""},
		{"postgres://u@localhost/db", ""},
		{"postgres://u@[::1]/db", ""},
		{"postgres:///db?host=/run/postgresql", ""},
	} {
		_, err := parse(Config{URL: c.url, Log: slog.New(slog.DiscardHandler)})
		if (c.fault == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), c.fault) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: %v", c.url, err)
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	s := open(b, pgtest.Start(b).Database("db"))
	b.SetParallelism(64)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := put(s, "k", "v"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkView(b *testing.B) {
	s := open(b, pgtest.Start(b).Database("db"))
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := get(s, "k"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
