package auditcheck

import (
	"context"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/auditlog"
)

// Tombstone is what a trustee has kept of a log that was removed.
type Tombstone struct {
	Log     string // hash of its first line
	Records uint64
	Removal auditlog.Removal
	Signed  *auditlog.Signed
}

// Buried checks what is left of a log: that its end is signed with the key that counts,
// and that no witness knows more of the log, or something else. Its lines are not looked
// at: whoever removed the log has them.
func Buried(t *Tombstone, o Options) (*Report, error) {
	if t.Signed == nil {
		return nil, errors.New("the log was removed, and nothing vouches for its end")
	}
	w := &wanted{key: o.Key, hashes: map[uint64]string{}}
	if o.Witness != nil {
		return nil, errors.New("a witness of one log does not tell of one that was removed")
	}
	c, err := w.verify(t.Signed)
	if err != nil {
		return nil, err
	}
	if c.Log != t.Log || c.Seq != t.Records {
		return nil, fmt.Errorf("the log was removed at record %d, and what is signed is record %d of %.16q", t.Records, c.Seq, c.Log)
	}
	if err := w.add(c); err != nil {
		return nil, err
	}
	received, err := w.received(o.Received)
	if err != nil {
		return nil, err
	}
	r := &Report{Records: c.Seq, Hash: c.Hash, Checkpoints: 1, Witness: *t.Signed, Removed: &t.Removal}
	if err := r.take(w, received, t.Log, &o); err != nil {
		return nil, err
	}
	for seq := range w.hashes {
		if seq > c.Seq {
			return nil, fmt.Errorf("the log was removed at record %d, and record %d was signed: it was cut off before", c.Seq, seq)
		}
	}
	return r, nil
}

// Removals collects what logs say of the removal of others.
type Removals struct {
	logs    map[string]bool // that were looked through
	records map[at]*auditlog.Removed
}

// at is a place in a log.
type at struct {
	log string
	seq uint64
}

// NewRemovals begins with none.
func NewRemovals() *Removals {
	return &Removals{logs: map[string]bool{}, records: map[at]*auditlog.Removed{}}
}

const maxRemovals = 1 << 20

// Watch gives a source that is another one, and remembers what its lines say of
// removals. id is the hash of its first line.
func (r *Removals) Watch(s Source, id string) Source { return &watched{s, id, r} }

type watched struct {
	Source
	id string
	r  *Removals
}

// Lines implements Source.
func (w *watched) Lines(ctx context.Context, fn func([]byte) error) error {
	seq := uint64(0)
	err := w.Source.Lines(ctx, func(line []byte) error {
		seq++
		what, err := auditlog.RemovedBy(line)
		if err != nil {
			return err
		}
		if what != nil {
			if len(w.r.records) == maxRemovals {
				return fmt.Errorf("more than %d removals", maxRemovals)
			}
			w.r.records[at{w.id, seq}] = what
		}
		return fn(line)
	})
	w.r.logs[w.id] = err == nil
	return err
}

// Check reports whether the removal of a log is on record where its tombstone says. That
// record may be in a log that was removed as well, as buried says of an id: then it is in
// the export of that one, and Check gives false.
func (r *Removals) Check(t *Tombstone, c *Report, buried func(id string) bool) (bool, error) {
	what := r.records[at{t.Removal.Log, t.Removal.Record}]
	switch {
	case what != nil:
		if *what != (auditlog.Removed{Log: t.Log, Seq: c.Records, Hash: c.Hash, SHA256: t.Removal.SHA256}) {
			return false, fmt.Errorf("it was removed, and record %d of log %.16s, which should say so, is of another removal", t.Removal.Record, t.Removal.Log)
		}
		return true, nil
	case r.logs[t.Removal.Log]:
		return false, fmt.Errorf("it was removed, and record %d of log %.16s does not say so", t.Removal.Record, t.Removal.Log)
	case t.Removal.Log != t.Log && buried(t.Removal.Log):
		return false, nil
	}
	return false, fmt.Errorf("it was removed, and the log with the record of it, %.16s, is not here: it was deleted, or is in files of a replica", t.Removal.Log)
}
