package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/trustee/store"
)

// LeastAge is how old what is signed about a log's end must be before the log may be
// removed: its server, which signs again every hour, is long gone, and those who witness
// checkpoints have had the time to take this one.
const LeastAge = 24 * time.Hour

// Remove takes the records of a finished log out of its store, and keeps its signed end
// and what became of it. The order is what makes it safe to be cut off anywhere: all
// conditions hold, the removal is on record in this server's own log (record does that,
// durably, and gives the number), the head becomes a tombstone, on which nothing is
// appended or read any more, and only then the records go. What is left of these after
// that is for Sweep, or for another Remove.
//
// digest is the auditlog.Digest of the log in hex: whoever asks has all of it.
func (c *Checkpointer) Remove(ctx context.Context, l *Stored, digest, actor string, record func(*auditlog.Removed) (uint64, error)) (*auditlog.Removal, error) {
	if l.Removed != nil {
		if digest != l.Removed.SHA256 {
			return nil, removed(l.Removed)
		}
		return l.Removed, empty(ctx, l.s, l.name)
	}
	own, _, err := c.log.End(ctx)
	if err != nil {
		return nil, err
	}
	if own == l.ID {
		return nil, refuse(ReasonInUse, "the log of the replica that answers cannot be removed")
	}
	signed, err := c.signedEnd(ctx, l)
	if err != nil {
		return nil, err
	}
	have, _, err := c.walked(ctx, l, 0)
	if err != nil {
		return nil, err
	}
	if digest != have {
		return nil, refuse(ReasonUnexported, "the log's SHA-256 is not %.64q: export it, and say which export has it", digest)
	}
	r := &auditlog.Removal{Time: c.log.cfg.Now().UTC(), Actor: actor, SHA256: have, Log: own}
	if r.Record, err = record(&auditlog.Removed{Log: l.ID, Seq: l.Records, Hash: l.hash, SHA256: have}); err != nil {
		return nil, err
	}
	if r, err = l.bury(ctx, signed, r); err != nil {
		return nil, err
	}
	return r, empty(ctx, l.s, l.name)
}

// signedEnd gives the checkpoint that was kept of a log, if it is of its end and old
// enough.
func (c *Checkpointer) signedEnd(ctx context.Context, l *Stored) (*auditlog.Signed, error) {
	signed, what, err := c.kept(ctx, l)
	if err != nil {
		return nil, err
	}
	if what == nil || what.Seq != l.Records || what.Hash != l.hash {
		return nil, refuse(ReasonUnsigned, "nobody has signed where the log ends, at record %d: its server was killed, or writes still", l.Records)
	}
	if age := c.log.cfg.Now().Sub(what.Time); age < LeastAge {
		return nil, refuse(ReasonInUse, "where the log ends was signed at %s, and it may be removed %s later: its server may live", what.Time.Format(time.RFC3339), LeastAge)
	}
	return signed, nil
}

// kept gives the checkpoint of a log that lies beside it, verified; nil: there is none.
func (c *Checkpointer) kept(ctx context.Context, l *Stored) (*auditlog.Signed, *auditlog.Checkpoint, error) {
	signed, err := l.Checkpoint(ctx)
	if err != nil || signed == nil {
		return nil, nil, err
	}
	what, err := auditlog.VerifyCheckpoint(signed.Checkpoint, c.key.Public())
	if err != nil {
		return nil, nil, refuse(ReasonBroken, "the log's checkpoint is not this trustee's: %v", err)
	}
	if what.Log != l.ID || what.Instance != c.instance {
		return nil, nil, refuse(ReasonBroken, "the log's checkpoint is of another log, %.16q of instance %.40q", what.Log, what.Instance)
	}
	return signed, what, nil
}

// bury makes the head of a log a tombstone if it is as it was read. If it is one
// already, that one stays.
func (l *Stored) bury(ctx context.Context, signed *auditlog.Signed, r *auditlog.Removal) (*auditlog.Removal, error) {
	out := r
	err := l.s.Update(ctx, func(tx store.Tx) error {
		out = r
		h, err := l.unchanged(tx, signed)
		if err != nil {
			return err
		}
		if h.Removed != nil {
			out = h.Removed
			return nil
		}
		h.Removed = r
		return store.PutJSON(tx, bucketHeads, l.name, h)
	})
	if err != nil {
		return nil, fmt.Errorf("audit: removing log %.16s: %w", l.ID, err)
	}
	return out, nil
}

// unchanged gives the head of a log if it and the checkpoint beside it are what they were.
func (l *Stored) unchanged(tx store.Tx, signed *auditlog.Signed) (*head, error) {
	h, ok, err := store.GetJSON[head](tx, bucketHeads, l.name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, ErrNoLog
	}
	kept, ok, err := store.GetJSON[auditlog.Signed](tx, bucketCheckpoints, l.name)
	if err != nil {
		return nil, err
	}
	if h.Seq != l.Records || h.Hash != l.hash || h.Epoch != l.epoch || ok != (signed != nil) || ok && *kept != *signed {
		return nil, refuse(ReasonInUse, "the log has grown or was signed in the meantime: its server lives")
	}
	return h, nil
}

// walk follows the whole log, calls fn after each line, and gives the log's digest. A log
// that is not what its head says is refused.
func (l *Stored) walk(ctx context.Context, fn func(*auditlog.Chain) error) (string, error) {
	const lines, size = 1000, 1 << 20 // of a page
	chain, digest := auditlog.NewChain(), auditlog.NewDigest()
	for chain.Seq < l.Records {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		page, err := l.Read(chain.Seq, int(min(lines, l.Records-chain.Seq)), size)
		if err != nil {
			return "", err
		}
		if len(page) == 0 {
			return "", refuse(ReasonBroken, "the log ends at record %d, and its head says %d", chain.Seq, l.Records)
		}
		for _, line := range page {
			if err := chain.Next(line); err != nil {
				return "", refuse(ReasonBroken, "the log is not whole: %v", err)
			}
			digest.Add(line)
			if err := fn(chain); err != nil {
				return "", err
			}
		}
	}
	if chain.Hash != l.hash || chain.First != l.ID {
		return "", refuse(ReasonBroken, "the log's records are not those of its head")
	}
	return digest.Hex(), nil
}

// silence is how long a server must have signed nothing before another one signs where its
// log ends.
const silence = 2 * SignAgain

// SignEnd signs where the log of another server ends, which did not do it itself: it was
// killed. The log must be whole and as it was when it was signed last. It takes nothing
// more from then on: a server that lives after all could otherwise take back a record whose
// outcome it does not know, and that is signed now. A checkpoint of its end that is there
// already is given as it is, with its time.
func (c *Checkpointer) SignEnd(ctx context.Context, l *Stored) (*auditlog.Signed, error) {
	if l.Removed != nil {
		return nil, removed(l.Removed)
	}
	own, _, err := c.log.End(ctx)
	if err != nil {
		return nil, err
	}
	if own == l.ID {
		return nil, refuse(ReasonInUse, "the replica that answers signs its own log itself")
	}
	old, kept, err := c.kept(ctx, l)
	if err != nil {
		return nil, err
	}
	if kept != nil && kept.Seq > l.Records {
		return nil, refuse(ReasonBroken, "the log ends at record %d, and record %d was signed: it was cut off", l.Records, kept.Seq)
	}
	last := l.Began
	if kept != nil {
		last = kept.Time
	}
	if done := kept != nil && kept.Seq == l.Records; !done && c.log.cfg.Now().Sub(last) < silence {
		return nil, refuse(ReasonInUse, "the log was signed or begun at %s, and another server may sign where it ends %s later: its own may live", last.Format(time.RFC3339), silence)
	}
	mark := uint64(0)
	if kept != nil {
		mark = kept.Seq
	}
	_, hash, err := c.walked(ctx, l, mark)
	if err != nil {
		return nil, err
	}
	if mark > 0 && hash != kept.Hash {
		return nil, refuse(ReasonBroken, "record %d is not the one that was signed", kept.Seq)
	}
	if kept != nil && kept.Seq == l.Records {
		return old, nil
	}
	what := &auditlog.Checkpoint{Instance: c.instance, Log: l.ID, Seq: l.Records, Hash: l.hash, Time: c.log.cfg.Now().UTC()}
	raw, err := what.Sign(c.key)
	if err != nil {
		return nil, err
	}
	signed := &auditlog.Signed{Checkpoint: raw, PublicKey: c.public}
	if err := l.s.Update(ctx, func(tx store.Tx) error {
		h, err := l.unchanged(tx, old)
		if err != nil {
			return err
		}
		if h.Removed != nil {
			return removed(h.Removed)
		}
		h.Closed = true
		if err := store.PutJSON(tx, bucketHeads, l.name, h); err != nil {
			return err
		}
		return store.PutJSON(tx, bucketCheckpoints, l.name, signed)
	}); err != nil {
		return nil, fmt.Errorf("audit: signing log %.16s: %w", l.ID, err)
	}
	if c.Publish != nil {
		c.Publish(*signed)
	}
	return signed, nil
}

// sweepSize is about how much one transaction of a removal takes away. A test has less.
var sweepSize = 8 << 20

// Sweep takes away what is left of logs that were removed.
func Sweep(ctx context.Context, s store.Store) error {
	var names []string
	err := s.View(ctx, func(tx store.Tx) error {
		names = nil
		return eachHead(tx, func(name string, h *head) {
			if h.Removed != nil && !h.Emptied {
				names = append(names, name)
			}
		})
	})
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, empty(ctx, s, name))
	}
	return errors.Join(errs...)
}

// empty deletes the records of a log whose head is a tombstone, and of no other. It may
// be cut off between any two of its transactions.
func empty(ctx context.Context, s store.Store, name string) error {
	for done := false; !done; {
		if err := s.Update(ctx, func(tx store.Tx) error {
			done = true
			h, ok, err := store.GetJSON[head](tx, bucketHeads, name)
			if err != nil || !ok || h.Removed == nil || h.Emptied {
				return err
			}
			var keys []string
			size := 0
			if err := tx.Scan(bucketRecords+name, "", func(k string, value []byte) (bool, error) {
				keys = append(keys, k)
				size += len(value)
				return size < sweepSize, nil
			}); err != nil {
				return err
			}
			for _, k := range keys {
				if err := tx.Delete(bucketRecords+name, k); err != nil {
					return err
				}
			}
			if done = size < sweepSize; !done {
				return nil
			}
			h.Emptied = true
			return store.PutJSON(tx, bucketHeads, name, h)
		}); err != nil {
			return fmt.Errorf("audit: removing records: %w", err)
		}
	}
	return nil
}
