package auditcheck

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cofferproject/coffer/api/auditlog"
)

// OtherLog is a log that a witness knows beside the one that is checked.
type OtherLog struct {
	Log string `json:"log"` // hash of its first line
	Seq uint64 `json:"seq"` // its newest record that was signed
}

// wanted is what signed checkpoints say about a log.
type wanted struct {
	key      string
	instance string            // "": not known yet
	hashes   map[uint64]string // of a record, what it must be
}

// verify checks a checkpoint's signature, whose key must be the one that counts.
func (w *wanted) verify(x *auditlog.Signed) (*auditlog.Checkpoint, error) {
	if x.PublicKey != w.key && (x.PublicKey != "" || w.key == "") {
		return nil, errors.New("a checkpoint is signed with another key than the witness's: this is another log")
	}
	x.PublicKey = w.key
	c, err := x.Verify()
	if err != nil {
		return nil, err
	}
	if w.instance == "" {
		w.instance = c.Instance
	}
	if c.Instance != w.instance {
		return nil, fmt.Errorf("checkpoint of instance %.40q, another one is of %.40q", c.Instance, w.instance)
	}
	return c, nil
}

// add takes a checkpoint of this log. Two that say different things of one record are
// a fork: whoever holds the key told one story here and another one there.
func (w *wanted) add(c *auditlog.Checkpoint) error {
	if have, ok := w.hashes[c.Seq]; ok && have != c.Hash {
		return fmt.Errorf("record %d was signed with two contents: the log was forked, or written anew", c.Seq)
	}
	w.hashes[c.Seq] = c.Hash
	return nil
}

// received verifies what a witness got, by the log that it is of.
func (w *wanted) received(all []auditlog.Signed) (map[string][]*auditlog.Checkpoint, error) {
	out := map[string][]*auditlog.Checkpoint{}
	for i, x := range all {
		c, err := w.verify(&x)
		if err != nil {
			return nil, fmt.Errorf("checkpoint %d of the witness: %w", i+1, err)
		}
		out[c.Log] = append(out[c.Log], c)
	}
	return out, nil
}

// check holds the chain's newest record against what is wanted of it.
func (w *wanted) check(c *auditlog.Chain) error {
	if h, ok := w.hashes[c.Seq]; ok && h != c.Hash {
		return fmt.Errorf("record %d is not the one that was signed: the log was written anew", c.Seq)
	}
	delete(w.hashes, c.Seq)
	return nil
}

// take finds among what a witness got that of this log, whose first line has the hash
// first. Checkpoints that name no log are taken to be of this one.
func (r *Report) take(w *wanted, received map[string][]*auditlog.Checkpoint, first string, opts *Options) error {
	for log, l := range received {
		if log != "" && log != first {
			o := OtherLog{Log: log}
			for _, c := range l {
				o.Seq = max(o.Seq, c.Seq)
			}
			r.OtherLogs = append(r.OtherLogs, o)
			continue
		}
		r.Witnessed += len(l)
		for _, c := range l {
			if c.Seq == 0 {
				continue // before the first line: says nothing
			}
			if err := w.add(c); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(r.OtherLogs, func(a, b OtherLog) int { return slices.Compare([]byte(a.Log), []byte(b.Log)) })
	switch {
	case len(received) > 0 && r.Witnessed == 0 && !opts.Unwitnessed:
		return errors.New("the witness has no checkpoint of this log: it was written anew, or is another one")
	case len(r.OtherLogs) > 0 && !opts.Replicas:
		o := r.OtherLogs[0]
		return fmt.Errorf("the witness also knows a log that begins with %.16s and reached record %d: it was replaced by this one, or is a replica's", o.Log, o.Seq)
	}
	return nil
}
