package postgres

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
)

// TestNumberGivenAgain loses a transaction together with its server; the next one, of
// another replica, gets its number and commits. That is not taken for the lost one.
func TestNumberGivenAgain(t *testing.T) {
	pg := pgtest.Start(t)
	url := pg.Database("db")
	a, b := open(t, url), open(t, url)
	if err := put(a, "before", "1"); err != nil {
		t.Fatal(err)
	}
	runs, killed := 0, false
	a.testLostCommit = func(c *pgxpool.Conn, _ string) {
		if killed {
			return
		}
		killed = true
		pg.Kill()
		pg.Start()
		until(t, "the other replica's update", func() bool { return put(b, "other", "1") == nil })
	}
	if err := a.Update(t.Context(), func(tx store.Tx) error {
		runs++
		return tx.Put("b", "mine", []byte("1"))
	}); err != nil && !errors.Is(err, store.ErrUnavailable) {
		t.Fatal(err)
	} else if v, gerr := get(b, "mine"); gerr != nil || (v == "1") != (err == nil) {
		t.Errorf("after %d runs the update says %v, and the database has %q, %v", runs, err, v, gerr)
	}
}

// TestStandbyAway has commits wait for a standby that is not there: that they are on one
// server alone is never said to be done.
func TestStandbyAway(t *testing.T) {
	pg := pgtest.Start(t)
	s := open(t, pg.Database("db"))
	if err := put(s, "before", "1"); err != nil {
		t.Fatal(err)
	}
	set := func(names string) {
		pg.SQL("db", "ALTER SYSTEM SET synchronous_standby_names = '"+names+"'")
		pg.SQL("db", "SELECT pg_reload_conf()")
		time.Sleep(500 * time.Millisecond) // its processes read it in their own time
	}
	set("nobody")
	if err := put(s, "mine", "1"); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("%v, want ErrUnknown", err)
	}
	set("")
	until(t, "updates again", func() bool { return put(s, "after", "1") == nil })
}
