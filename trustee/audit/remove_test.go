package audit

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/postgres"
	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
)

// retention is two servers on one store, one after the other.
type retention struct {
	t   *testing.T
	s   store.Store
	now time.Time
	key crypto.Signer
	own *Log // of the server that lives
	cp  *Checkpointer
	// published is what witnesses got.
	published []auditlog.Signed
}

func newRetention(t *testing.T, s store.Store) *retention {
	t.Helper()
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	r := &retention{t: t, s: s, now: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), key: key}
	r.own, r.cp = r.server(1)
	r.cp.Publish = func(s auditlog.Signed) { r.published = append(r.published, s) }
	return r
}

// server starts one and has it write records.
func (r *retention) server(records int) (*Log, *Checkpointer) {
	r.t.Helper()
	l := open(r.t, Config{Store: r.s, Host: "h", Now: func() time.Time { return r.now }})
	for i := range records {
		r.append(l, fmt.Sprint(i))
	}
	c, err := NewCheckpointer(l, r.key, "i")
	if err != nil {
		r.t.Fatal(err)
	}
	return l, c
}

func (r *retention) append(l *Log, what string) {
	r.t.Helper()
	if err := l.Append(r.t.Context(), &Entry{Kind: KindAdmin, Record: rand.Text(), Action: what}); err != nil {
		r.t.Fatal(err)
	}
}

// finished gives a log whose server has ended; signed says whether it could sign the end.
func (r *retention) finished(records int, signed bool) *Stored {
	r.t.Helper()
	l, c := r.server(records)
	if err := c.Write(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	if !signed {
		r.append(l, "after the last checkpoint")
	}
	id, _, err := l.End(r.t.Context())
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return r.find(id)
}

func (r *retention) find(id string) *Stored {
	r.t.Helper()
	l, err := Find(r.t.Context(), r.s, id)
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

func (r *retention) digest(l *Stored) string {
	r.t.Helper()
	d := auditlog.NewDigest()
	lines, err := l.Read(0, 1_000_000, 1<<30)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, line := range lines {
		d.Add(line)
	}
	return d.Hex()
}

// remove is Remove with a record as the administration API makes it.
func (r *retention) remove(l *Stored, digest string) (*auditlog.Removal, error) {
	return r.cp.Remove(r.t.Context(), l, digest, "somebody", func(what *auditlog.Removed) (uint64, error) {
		e := &Entry{Kind: KindAdmin, Action: auditlog.ActionRemoved, Log: what}
		err := r.own.Append(r.t.Context(), e)
		return e.Seq, err
	})
}

func (r *retention) refused(what string, err error, want denial.Reason) {
	r.t.Helper()
	var x *Refusal
	if !errors.As(err, &x) || x.Reason != want {
		r.t.Errorf("%s: %v, not %s", what, err, want)
	}
}

// left counts the values of a log's records.
func (r *retention) left(l *Stored) int {
	r.t.Helper()
	n := 0
	if err := r.s.View(r.t.Context(), func(tx store.Tx) error {
		n = 0
		return tx.Scan(bucketRecords+l.name, "", func(string, []byte) (bool, error) {
			n++
			return true, nil
		})
	}); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// onRecord checks what a removal says of itself against the record of it.
func (r *retention) onRecord(l *Stored, x *auditlog.Removal, digest string) {
	r.t.Helper()
	lines, err := r.find(x.Log).Read(x.Record-1, 1, 1<<20)
	if err != nil || len(lines) != 1 {
		r.t.Fatalf("%d lines, %v", len(lines), err)
	}
	what, err := auditlog.RemovedBy(lines[0])
	if want := (auditlog.Removed{Log: l.ID, Seq: l.Records, Hash: l.hash, SHA256: digest}); err != nil || what == nil || *what != want {
		r.t.Errorf("on record: %+v, %v, not %+v", what, err, want)
	}
}

func TestRemove(t *testing.T) {
	r := newRetention(t, openBolt(t))
	old := r.finished(5, true)
	digest := r.digest(old)
	_, err := r.remove(old, digest)
	r.refused("just signed", err, ReasonInUse)
	r.now = r.now.Add(LeastAge)
	_, err = r.remove(old, strings.Repeat("0", 64))
	r.refused("another export", err, ReasonUnexported)
	own, _, err := r.own.End(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.remove(r.find(own), digest)
	r.refused("the own log", err, ReasonInUse)
	if err := empty(t.Context(), r.s, old.name); err != nil {
		t.Fatal(err)
	}
	if old = r.find(old.ID); old.Removed != nil || r.left(old) != 5 {
		t.Fatalf("refused, and %+v with %d values", old.Removed, r.left(old))
	}

	x, err := r.remove(old, digest)
	if err != nil {
		t.Fatal(err)
	}
	r.onRecord(old, x, digest)
	gone := r.find(old.ID)
	if gone.Removed == nil || *gone.Removed != *x || gone.Records != 5 || r.left(old) != 0 || !x.Time.Equal(r.now) || x.Actor != "somebody" || x.Log != own {
		t.Fatalf("%+v, %+v, %d values", gone, x, r.left(old))
	}
	_, err = gone.Read(0, 10, 1<<20)
	r.refused("reading", err, ReasonRemoved)
	_, err = r.cp.SignEnd(t.Context(), gone)
	r.refused("signing", err, ReasonRemoved)
	signed, err := gone.Checkpoint(t.Context())
	if err != nil || signed == nil {
		t.Fatal(signed, err)
	}
	if c, err := signed.Verify(); err != nil || c.Seq != 5 || c.Hash != old.hash || c.Log != old.ID {
		t.Errorf("the signed end: %+v, %v", c, err)
	}
	again, err := r.remove(gone, digest)
	if err != nil || *again != *x {
		t.Errorf("once more: %+v, %v", again, err)
	}
	_, err = r.remove(gone, strings.Repeat("0", 64))
	r.refused("once more with another export", err, ReasonRemoved)
}

// A server that was cut off from the store for more than a day comes back to a log that
// was removed: it appends, recovers and signs nothing.
func TestAppendToRemoved(t *testing.T) {
	r := newRetention(t, openBolt(t))
	l, c := r.server(3)
	if err := c.Write(t.Context()); err != nil {
		t.Fatal(err)
	}
	id, _, _ := l.End(t.Context())
	r.now = r.now.Add(LeastAge)
	old := r.find(id)
	if _, err := r.remove(old, r.digest(old)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second one tries to recover first
		r.refused("append", l.Append(t.Context(), &Entry{Kind: KindRelease}), ReasonRemoved)
	}
	r.refused("recovery", l.Check(t.Context()), ReasonRemoved)
	r.refused("keeping a checkpoint", l.w.m.keep("x", "y"), ReasonRemoved)
	_, err := l.Read(0, 10, 1<<20)
	r.refused("reading", err, ReasonRemoved)
	if gone := r.find(id); gone.Removed == nil || gone.Records != 3 || r.left(old) != 0 {
		t.Errorf("%+v with %d values", gone, r.left(old))
	}
}

// A server that lives and has nothing to write signs all the same, so that its log is
// never old.
func TestIdleServerKeepsItsLog(t *testing.T) {
	r := newRetention(t, openBolt(t))
	l, c := r.server(3)
	for range 50 {
		if err := c.Write(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.now = r.now.Add(30 * time.Minute)
	}
	id, seq, _ := l.End(t.Context())
	old := r.find(id)
	_, err := r.remove(old, r.digest(old))
	r.refused("a log in use", err, ReasonInUse)
	if seq != 3 {
		t.Errorf("%d records", seq)
	}
}

func TestSignEnd(t *testing.T) {
	r := newRetention(t, openBolt(t))
	old := r.finished(4, false)
	digest := r.digest(old)
	_, err := r.cp.SignEnd(t.Context(), old)
	r.refused("its server may live", err, ReasonInUse)
	r.now = r.now.Add(LeastAge)
	_, err = r.remove(old, digest)
	r.refused("an end that nobody signed", err, ReasonUnsigned)
	signed, err := r.cp.SignEnd(t.Context(), old)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := auditlog.VerifyCheckpoint(signed.Checkpoint, r.key.Public()); err != nil || c.Seq != 5 || c.Hash != old.hash || c.Log != old.ID || !c.Time.Equal(r.now) {
		t.Errorf("%+v, %v", c, err)
	}
	if len(r.published) != 1 || r.published[0] != *signed {
		t.Errorf("witnesses got %v", r.published)
	}
	_, err = r.remove(old, digest)
	r.refused("witnesses had no time", err, ReasonInUse)
	r.now = r.now.Add(LeastAge)
	if again, err := r.cp.SignEnd(t.Context(), old); err != nil || *again != *signed {
		t.Errorf("signed twice: %v", err) // with the first time, or nobody could ever remove it
	}
	if x, err := r.remove(old, digest); err != nil {
		t.Error(err)
	} else {
		r.onRecord(old, x, digest)
	}
}

// A server that was cut off from the store does not know whether its last record is there.
// It is, and is signed by another one: then it stays.
func TestSignedForLivingServer(t *testing.T) {
	s := openBolt(t)
	r := newRetention(t, s)
	f := &faultyStore{Store: s}
	l := open(t, Config{Store: f, Now: func() time.Time { return r.now }})
	r.append(l, "first")
	f.after = store.ErrUnknown
	if err := l.Append(t.Context(), &Entry{Kind: KindRelease}); err == nil {
		t.Fatal("the outcome is known")
	}
	lines, err := l.Read(0, 10, 1<<20)
	if err != nil || len(lines) != 2 {
		t.Fatal(len(lines), err)
	}
	r.now = r.now.Add(silence)
	id := hashLine(lines[0])
	signed, err := r.cp.SignEnd(t.Context(), r.find(id))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Append(t.Context(), &Entry{Kind: KindRelease}); err == nil {
			t.Error("it goes on")
		}
	}
	if err := l.w.m.keep("x", "y"); err == nil {
		t.Error("a checkpoint replaces the one of the end")
	}
	now := r.find(id)
	if c, err := signed.Verify(); err != nil || c.Seq != 2 || c.Hash != now.hash || r.left(now) != 2 {
		t.Errorf("%+v, %v, and the log ends with %s", c, err, now.hash)
	}
}

// What somebody changed in the store is neither signed nor removed.
func TestRetentionOfChangedLog(t *testing.T) {
	forged := func(r *retention, l *Stored, change func(*auditlog.Checkpoint), key crypto.Signer) error {
		c := &auditlog.Checkpoint{Instance: "i", Log: l.ID, Seq: l.Records, Hash: l.hash, Time: r.now.Add(-48 * time.Hour)}
		change(c)
		raw, err := c.Sign(key)
		if err != nil {
			return err
		}
		return r.s.Update(context.Background(), func(tx store.Tx) error {
			return store.PutJSON(tx, bucketCheckpoints, l.name, auditlog.Signed{Checkpoint: raw})
		})
	}
	for name, tc := range map[string]struct {
		change    func(*retention, *Stored) error
		rm, sign  denial.Reason
		endSigned bool
	}{
		"a record is gone": {func(r *retention, l *Stored) error {
			return r.s.Update(context.Background(), func(tx store.Tx) error { return tx.Delete(bucketRecords+l.name, seqKey(2)) })
		}, ReasonBroken, ReasonBroken, true},
		"the last one is gone": {func(r *retention, l *Stored) error {
			return r.s.Update(context.Background(), func(tx store.Tx) error { return tx.Delete(bucketRecords+l.name, seqKey(4)) })
		}, ReasonBroken, ReasonBroken, true},
		"head put back": {func(r *retention, l *Stored) error {
			lines, err := l.Read(2, 1, 1<<20)
			if err != nil {
				return err
			}
			return r.s.Update(context.Background(), func(tx store.Tx) error {
				h, _, err := store.GetJSON[head](tx, bucketHeads, l.name)
				if err != nil {
					return err
				}
				h.Seq, h.Hash = 3, hashLine(lines[0])
				return store.PutJSON(tx, bucketHeads, l.name, h)
			})
		}, ReasonUnsigned, ReasonBroken, true},
		"signed with another key": {func(r *retention, l *Stored) error {
			_, other, _ := ed25519.GenerateKey(rand.Reader)
			return forged(r, l, func(*auditlog.Checkpoint) {}, other)
		}, ReasonBroken, ReasonBroken, true},
		"of another log": {func(r *retention, l *Stored) error {
			return forged(r, l, func(c *auditlog.Checkpoint) { c.Log = strings.Repeat("0", 64) }, r.key)
		}, ReasonBroken, ReasonBroken, true},
		"of another instance": {func(r *retention, l *Stored) error {
			return forged(r, l, func(c *auditlog.Checkpoint) { c.Instance = "x" }, r.key)
		}, ReasonBroken, ReasonBroken, true},
		"another end": {func(r *retention, l *Stored) error {
			return forged(r, l, func(c *auditlog.Checkpoint) { c.Hash = strings.Repeat("0", 64) }, r.key)
		}, ReasonUnsigned, ReasonBroken, true},
		"of tomorrow": {func(r *retention, l *Stored) error {
			return forged(r, l, func(c *auditlog.Checkpoint) { c.Time = r.now.Add(time.Hour) }, r.key)
		}, ReasonInUse, "", true},
		"no checkpoint": {func(r *retention, l *Stored) error {
			return r.s.Update(context.Background(), func(tx store.Tx) error { return tx.Delete(bucketCheckpoints, l.name) })
		}, ReasonUnsigned, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRetention(t, openBolt(t))
			l := r.finished(4, tc.endSigned)
			digest := r.digest(l)
			r.now = r.now.Add(LeastAge)
			if err := tc.change(r, l); err != nil {
				t.Fatal(err)
			}
			l = r.find(l.ID)
			_, err := r.remove(l, digest)
			r.refused("removal", err, tc.rm)
			if _, err = r.cp.SignEnd(t.Context(), l); tc.sign != "" {
				r.refused("signature", err, tc.sign)
			} else if err != nil {
				t.Error(err)
			}
			if r.find(l.ID).Removed != nil || r.left(l) < 3 {
				t.Error("something was removed")
			}
		})
	}
}

// A log that is written on while it is looked at is not removed, whatever was signed.
func TestRemoveRaces(t *testing.T) {
	for name, meanwhile := range map[string]func(*retention, *Log, *Checkpointer) error{
		"grows": func(r *retention, l *Log, _ *Checkpointer) error {
			return l.Append(r.t.Context(), &Entry{Kind: KindRelease})
		},
		"recovers": func(_ *retention, l *Log, _ *Checkpointer) error { return l.w.m.recover(l.w.at) },
		"signs":    func(r *retention, _ *Log, c *Checkpointer) error { return c.Write(r.t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRetention(t, openBolt(t))
			l, c := r.server(3)
			if err := c.Write(t.Context()); err != nil {
				t.Fatal(err)
			}
			id, _, _ := l.End(t.Context())
			r.now = r.now.Add(LeastAge)
			old := r.find(id)
			_, err := r.cp.Remove(t.Context(), old, r.digest(old), "somebody", func(*auditlog.Removed) (uint64, error) {
				return 1, meanwhile(r, l, c)
			})
			r.refused("removal", err, ReasonInUse)
			if r.find(id).Removed != nil || r.left(old) < 3 {
				t.Error("it was removed")
			}
		})
	}
}

// failAt fails the update with a number: before it happens, or afterwards.
type failAt struct {
	store.Store
	n, at int
	after bool
}

var errCut = errors.New("cut off")

func (f *failAt) Update(ctx context.Context, fn func(store.Tx) error) error {
	f.n++
	if f.at == 0 || f.n < f.at {
		return f.Store.Update(ctx, fn)
	}
	if f.n == f.at && f.after {
		if err := f.Store.Update(ctx, fn); err != nil {
			return err
		}
	}
	return errCut // and so does every one to come: the process has ended
}

// TestRemovalCutOff ends a removal before and after each of its changes of the store. At
// any time the log is whole, or it is removed and on record, and what was begun is
// finished by the next server.
func TestRemovalCutOff(t *testing.T) {
	t.Run("embedded", func(t *testing.T) { cutOff(t, openBolt(t)) })
	t.Run("PostgreSQL", func(t *testing.T) {
		s, err := postgres.Open(t.Context(), postgres.Config{URL: pgtest.Start(t).Database("trustee"), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		cutOff(t, s)
	})
}

func cutOff(t *testing.T, s store.Store) {
	defer func(n int) { sweepSize = n }(sweepSize)
	sweepSize = 1 // a transaction for each record
	whole, ended := 0, 0
	for i := range 20 {
		f := &failAt{Store: s}
		r := newRetention(t, f)
		old := r.finished(3, true)
		digest := r.digest(old)
		r.now = r.now.Add(LeastAge)
		f.n, f.at, f.after = 0, i/2+1, i%2 == 1
		_, err := r.remove(old, digest)
		f.at = 0
		if err == nil {
			ended++
		}
		now := r.find(old.ID)
		if now.Removed == nil {
			if whole++; err == nil || r.digest(now) != digest {
				t.Fatalf("update %d: %v, and the log is not whole", i/2+1, err)
			}
			if err := Sweep(t.Context(), s); err != nil || r.digest(now) != digest {
				t.Fatalf("update %d: sweeping takes away what was not removed, or fails: %v", i/2+1, err)
			}
			continue
		}
		r2 := newRetention(t, s) // the next server
		r2.onRecord(old, now.Removed, digest)
		if _, err := now.Read(0, 1, 1); err == nil {
			t.Errorf("update %d: a part of a removed log is read", i/2+1)
		}
		if err := Sweep(t.Context(), s); err != nil || r.left(old) != 0 {
			t.Errorf("update %d: %d values left, %v", i/2+1, r.left(old), err)
		}
		var h *head
		if err := s.View(t.Context(), func(tx store.Tx) (err error) {
			h, _, err = store.GetJSON[head](tx, bucketHeads, old.name)
			return err
		}); err != nil || !h.Emptied {
			t.Errorf("update %d: %+v, %v", i/2+1, h, err)
		}
	}
	// The record and the tombstone, three records and the end: before and after each.
	if whole != 3 || ended != 8 {
		t.Errorf("%d whole, %d ended of 20: the test shows something else", whole, ended)
	}
}

// TestRemoveOfALongLog: one that takes longer to read than a request waits is read all the
// same, and the same request later removes it.
func TestRemoveOfALongLog(t *testing.T) {
	r := newRetention(t, openBolt(t))
	old := r.finished(3000, true)
	digest := r.digest(old)
	r.now = r.now.Add(LeastAge)
	defer func(d time.Duration) { patience = d }(patience)
	patience = 0
	var x *Refusal
	_, err := r.remove(old, digest)
	for end := time.Now().Add(10 * time.Second); errors.As(err, &x) && x.Reason == ReasonChecking; _, err = r.remove(old, digest) {
		if time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := r.left(old); n != 0 {
		t.Errorf("%d records are left", n)
	}
}
