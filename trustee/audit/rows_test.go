package audit

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/bolt"
)

func openBolt(t *testing.T) store.Store {
	t.Helper()
	s, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// faultyStore answers the next update with an error: before it happened, or after.
type faultyStore struct {
	store.Store
	before, after error
}

func (f *faultyStore) Update(ctx context.Context, fn func(store.Tx) error) error {
	b, a := f.before, f.after
	f.before, f.after = nil, nil
	if b != nil {
		return b
	}
	return errors.Join(f.Store.Update(ctx, fn), a)
}

func wholeChain(t *testing.T, l interface {
	Read(uint64, int, int) ([][]byte, error)
},
) (*auditlog.Chain, string) {
	t.Helper()
	c := auditlog.NewChain()
	var all strings.Builder
	for {
		lines, err := l.Read(c.Seq, 3, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(lines) == 0 {
			return c, all.String()
		}
		for _, b := range lines {
			if err := c.Next(b); err != nil {
				t.Fatal(err)
			}
			all.Write(b)
		}
	}
}

func TestLogInStore(t *testing.T) {
	s := openBolt(t)
	var ids []string
	for i := range 2 { // each start begins a log, and leaves the others
		l := open(t, Config{Store: s, Host: fmt.Sprintf("replica-%d", i), Now: time.Now})
		if all, err := List(t.Context(), s); err != nil || len(all) != i {
			t.Fatalf("before the first record: %d logs, %v", len(all), err)
		}
		for k := range 10 {
			e := &Entry{Kind: KindRelease, Resource: fmt.Sprintf("default/a/%d", k)}
			if err := l.Append(t.Context(), e); err != nil || e.Seq != uint64(k)+1 {
				t.Fatalf("record %d: %v", e.Seq, err)
			}
		}
		c, all := wholeChain(t, l)
		id, seq, err := l.End(t.Context())
		if err != nil || c.First != id || c.Seq != 10 || seq != 10 || strings.Count(all, "default/a/7") != 1 {
			t.Fatalf("%d records of %d, the first is %s of %s, %v", c.Seq, seq, c.First, id, err)
		}
		ids = append(ids, id)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	all, err := List(t.Context(), s)
	if err != nil || len(all) != 2 {
		t.Fatalf("%d logs, %v", len(all), err)
	}
	for i, l := range all {
		if c, _ := wholeChain(t, l); l.ID != ids[i] || c.First != ids[i] || l.Records != 10 || c.Seq != 10 || l.Host != fmt.Sprintf("replica-%d", i) {
			t.Errorf("log %d: %+v, %d records", i, l, c.Seq)
		}
	}
	if _, err := Find(t.Context(), s, strings.Repeat("0", 64)); !errors.Is(err, ErrNoLog) {
		t.Errorf("a log that is not there: %v", err)
	}
}

// TestUnknownOutcome has the store fail, before a group is in it and after. What was
// not acknowledged is not in the log, and the chain goes on.
func TestUnknownOutcome(t *testing.T) {
	f := &faultyStore{Store: openBolt(t)}
	l := open(t, Config{Store: f, Now: time.Now})
	want := 0
	for i := range 12 {
		switch i % 4 {
		case 1:
			f.before = store.ErrUnavailable
		case 3:
			f.after = store.ErrUnknown
		}
		fails := f.before != nil || f.after != nil
		err := l.Append(t.Context(), &Entry{Kind: KindRelease, Resource: fmt.Sprintf("default/a/%d-%t", i, fails)})
		if (err != nil) != fails {
			t.Fatalf("record %d: %v", i, err)
		}
		if !fails {
			want++
		}
	}
	if err := l.Check(t.Context()); err != nil { // brings it back in step
		t.Fatal(err)
	}
	c, all := wholeChain(t, l)
	if c.Seq != uint64(want) || strings.Contains(all, "-true") {
		t.Errorf("%d records, want %d: %s", c.Seq, want, all)
	}
}

// TestLateAppend has an append that was given up reach the store after the log has
// gone on without it.
func TestLateAppend(t *testing.T) {
	s := openBolt(t)
	r := newRows(s, "", time.Now())
	at, _ := r.load()
	line := func(at end, text string) ([]byte, end) {
		b := fmt.Sprintf(`{"seq":%d,"prev":%q,"kind":%q}`, at.seq+1, at.hash, text)
		h := hashLine([]byte(b))
		to := end{at.seq + 1, h, at.id}
		if to.seq == 1 {
			to.id = h
		}
		return []byte(b + "\n"), to
	}
	first, one := line(at, "first")
	if err := r.append(first, at, one); err != nil {
		t.Fatal(err)
	}
	late := *r // the same log, as a connection that hangs knows it
	lost, two := line(one, "late")
	if err := r.recover(one); err != nil {
		t.Fatal(err)
	}
	if err := late.append(lost, one, two); err == nil {
		t.Fatal("a late append went through after the recovery")
	}
	second, two := line(one, "second")
	if err := r.append(second, one, two); err != nil {
		t.Fatal(err)
	}
	if err := late.append(lost, one, two); err == nil {
		t.Fatal("a late append overwrote a record")
	}
	l := &Stored{s: s, name: r.name}
	if c, all := wholeChain(t, l); c.Seq != 2 || !strings.Contains(all, "second") {
		t.Errorf("%d records: %s", c.Seq, all)
	}
}

// TestStoredCheckpoint signs the end of a log in a store, which stays there when its
// server is gone.
func TestStoredCheckpoint(t *testing.T) {
	s := openBolt(t)
	l := open(t, Config{Store: s, Now: time.Now})
	cp := checkpointer(t, l)
	for range 3 {
		if err := l.Append(t.Context(), &Entry{Kind: KindStart}); err != nil {
			t.Fatal(err)
		}
		if err := cp.Write(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	all, err := List(t.Context(), s)
	if err != nil || len(all) != 1 {
		t.Fatal(len(all), err)
	}
	signed, err := all[0].Checkpoint(t.Context())
	if err != nil || signed == nil {
		t.Fatal(signed, err)
	}
	if c, err := signed.Verify(); err != nil || c.Seq != 3 || c.Log != all[0].ID {
		t.Errorf("%+v, %v", c, err)
	}
}
