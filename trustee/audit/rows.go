package audit

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/trustee/store"
)

// Buckets of logs in a store. The records of a log are in a bucket of its own: a
// group that became durable at once is one value, its key the number of its last
// record.
const (
	bucketHeads       = "audit-logs"        // by a log's name
	bucketCheckpoints = "audit-checkpoints" // the newest of each log, by its name
	bucketRecords     = "audit-records/"    // and the name
)

// ErrNoLog says that there is no such log.
var ErrNoLog = errors.New("no such audit log")

// head is what a store knows of a log. An append goes through only on the head that
// it expects, so that one which was given up cannot come late and overwrite another.
type head struct {
	Seq   uint64    `json:"seq"`
	Hash  string    `json:"hash"`
	ID    string    `json:"id,omitempty"`
	Epoch uint64    `json:"epoch"` // of the last recovery
	Host  string    `json:"host,omitempty"`
	Began time.Time `json:"began"`
	// Closed says that another server has signed where the log ends (SignEnd): what the
	// one whose log it is has there, acknowledged or not, stays as it is.
	Closed bool `json:"closed,omitempty"`
	// Removed makes the head a tombstone: its records are gone, or about to be; Emptied
	// says that none is left.
	Removed *auditlog.Removal `json:"removed,omitempty"`
	Emptied bool              `json:"emptied,omitempty"`
}

// open says why a log takes nothing more; nil: it does, or there is none yet.
func (h *head) open() error {
	switch {
	case h == nil:
		return nil
	case h.Removed != nil:
		return removed(h.Removed)
	case h.Closed:
		return errors.New("another server has signed where this log ends")
	}
	return nil
}

// rows is a log in a store. Its name is random: every start begins a log.
type rows struct {
	s     store.Store
	name  string
	host  string
	began time.Time
	epoch uint64
	begun bool // there is a head
}

func newRows(s store.Store, host string, now time.Time) *rows {
	return &rows{s: s, name: rand.Text(), host: host, began: now.UTC()}
}

func seqKey(n uint64) string { return fmt.Sprintf("%020d", n) }

func (r *rows) load() (end, error) { return end{hash: genesis}, nil }

func (r *rows) head(at end, epoch uint64) *head {
	return &head{Seq: at.seq, Hash: at.hash, ID: at.id, Epoch: epoch, Host: r.host, Began: r.began}
}

// update commits, and knows afterwards whether it did.
func (r *rows) update(fn func(store.Tx) error) error {
	return r.s.Update(context.Background(), fn)
}

func (r *rows) append(lines []byte, from, to end) error {
	err := r.update(func(tx store.Tx) error {
		h, ok, err := store.GetJSON[head](tx, bucketHeads, r.name)
		if err != nil {
			return err
		}
		if err := h.open(); err != nil {
			return err
		}
		if ok != r.begun || ok && (h.Seq != from.seq || h.Hash != from.hash || h.Epoch != r.epoch) {
			return errors.New("the log in the store does not end where this server left it")
		}
		if err := tx.Put(bucketRecords+r.name, seqKey(to.seq), lines); err != nil {
			return err
		}
		return store.PutJSON(tx, bucketHeads, r.name, r.head(to, r.epoch))
	})
	if err == nil {
		r.begun = true
	}
	return err
}

func (r *rows) recover(at end) error {
	var epoch uint64
	err := r.update(func(tx store.Tx) error {
		h, _, err := store.GetJSON[head](tx, bucketHeads, r.name)
		if err != nil {
			return err
		}
		epoch = r.epoch + 1
		if err := h.open(); err != nil {
			return err
		}
		if h != nil {
			epoch = max(epoch, h.Epoch+1)
		}
		var surplus []string
		if err := tx.Scan(bucketRecords+r.name, seqKey(at.seq+1), func(k string, _ []byte) (bool, error) {
			surplus = append(surplus, k)
			return true, nil
		}); err != nil {
			return err
		}
		for _, k := range surplus {
			if err := tx.Delete(bucketRecords+r.name, k); err != nil {
				return err
			}
		}
		return store.PutJSON(tx, bucketHeads, r.name, r.head(at, epoch))
	})
	if err == nil {
		r.epoch, r.begun = epoch, true
	}
	return err
}

func (r *rows) read(from uint64, fn func(seq uint64, line []byte) bool) error {
	return readRows(r.s, r.name, from, fn)
}

func readRows(s store.Store, name string, from uint64, fn func(seq uint64, line []byte) bool) error {
	return s.View(context.Background(), func(tx store.Tx) error {
		h, _, err := store.GetJSON[head](tx, bucketHeads, name)
		if err != nil {
			return err
		}
		if h != nil && h.Removed != nil {
			return removed(h.Removed) // rather than what is left of it
		}
		return tx.Scan(bucketRecords+name, seqKey(from), func(_ string, value []byte) (bool, error) {
			for line := range bytes.Lines(value) {
				line = bytes.TrimSuffix(line, []byte{'\n'})
				var e struct {
					Seq uint64 `json:"seq"`
				}
				if err := json.Unmarshal(line, &e); err != nil {
					return false, err
				}
				if e.Seq >= from && !fn(e.Seq, line) {
					return false, nil
				}
			}
			return true, nil
		})
	})
}

func (r *rows) openCheckpoints() error { return nil }

func (r *rows) keep(signed, public string) error {
	return r.update(func(tx store.Tx) error {
		h, _, err := store.GetJSON[head](tx, bucketHeads, r.name)
		if err != nil {
			return err
		}
		if err := h.open(); err != nil {
			return err
		}
		return store.PutJSON(tx, bucketCheckpoints, r.name, auditlog.Signed{Checkpoint: signed, PublicKey: public})
	})
}

func (r *rows) close() error { return nil }

// Stored is a log in a store.
type Stored struct {
	ID      string    // hash of its first record
	Host    string    // of the server that wrote it
	Began   time.Time // when that was started
	Records uint64
	// Removed, if set, says that there is only the signed end of it.
	Removed *auditlog.Removal

	name  string
	hash  string // of its last record
	epoch uint64
	s     store.Store
}

// List gives the logs of a store that have a record, the oldest first, and what is kept
// of those that were removed.
func List(ctx context.Context, s store.Store) ([]*Stored, error) {
	var out []*Stored
	err := s.View(ctx, func(tx store.Tx) error {
		out = nil
		return eachHead(tx, func(key string, h *head) {
			if h.ID != "" {
				out = append(out, &Stored{ID: h.ID, Host: h.Host, Began: h.Began, Records: h.Seq, Removed: h.Removed, name: key, hash: h.Hash, epoch: h.Epoch, s: s})
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	slices.SortFunc(out, func(a, b *Stored) int { return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

func eachHead(tx store.Tx, fn func(name string, h *head)) error {
	return tx.Scan(bucketHeads, "", func(key string, value []byte) (bool, error) {
		h := new(head)
		if err := json.Unmarshal(value, h); err != nil {
			return false, fmt.Errorf("%s/%s: %w", bucketHeads, key, err)
		}
		fn(key, h)
		return true, nil
	})
}

// Find gives the log of a store with an id, or ErrNoLog.
func Find(ctx context.Context, s store.Store, id string) (*Stored, error) {
	all, err := List(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		if l.ID == id {
			return l, nil
		}
	}
	return nil, ErrNoLog
}

// Read is Log's Read.
func (l *Stored) Read(after uint64, limit, maxBytes int) ([][]byte, error) {
	return readPage(func(from uint64, fn func(uint64, []byte) bool) error { return readRows(l.s, l.name, from, fn) }, after, limit, maxBytes)
}

// Checkpoint gives the newest signed checkpoint that was kept; nil: none yet.
func (l *Stored) Checkpoint(ctx context.Context) (*auditlog.Signed, error) {
	var out *auditlog.Signed
	err := l.s.View(ctx, func(tx store.Tx) (err error) {
		out, _, err = store.GetJSON[auditlog.Signed](tx, bucketCheckpoints, l.name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return out, nil
}
