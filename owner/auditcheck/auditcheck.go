// Package auditcheck checks a trustee's audit log from outside: the chain, the
// signed checkpoints, and against a witness whether it was cut off or written anew
// since the last time (api/auditlog/SPEC.md).
//
// Invariants: whatever is not there or does not fit is an error, never a warning;
// a witness is replaced only after everything was checked.
//
// Trust zone: owner. The log may be anybody's.
package auditcheck

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/auditlog"
)

// Source gives a log.
type Source interface {
	// Lines calls fn with every line from the first one on.
	Lines(ctx context.Context, fn func(line []byte) error) error
	// Checkpoints gives what is signed about the log, at least one of them.
	Checkpoints(ctx context.Context) ([]auditlog.Signed, error)
}

// Report says what was found to be good.
type Report struct {
	Records     uint64 `json:"records"`
	Hash        string `json:"hash"` // of the last one
	Checkpoints int    `json:"checkpoints"`
	// Since is the record of the witness; 0: there was none.
	Since uint64 `json:"since,omitempty"`
	// Witnessed is how many checkpoints of what a witness received are of this log.
	Witnessed int `json:"witnessed,omitempty"`
	// OtherLogs are logs of the same trustee that the witness knows, and that are not
	// this one: those of replicas.
	OtherLogs []OtherLog `json:"other_logs,omitempty"`
	// Releases is what the log says became of secrets.
	Releases Releases `json:"releases"`
	// Witness is what to keep for the next time.
	Witness auditlog.Signed `json:"witness"`
	// Removed says that the log was removed: only its signed end was checked.
	Removed *auditlog.Removal `json:"removed,omitempty"`
	// Unproven says that the record of the removal is in a log that was removed as well.
	Unproven bool `json:"unproven,omitempty"`
}

// Options say what a log is held against.
type Options struct {
	// Witness is what was kept from the last time; nil: nothing.
	Witness *auditlog.Signed
	// Received is what a witness got from the trustee (ReadReceived).
	Received []auditlog.Signed
	// Replicas allows Received to have checkpoints of other logs of the same trustee.
	Replicas bool
	// Unwitnessed allows Received to have none of this log.
	Unwitnessed bool
	// Key is the PEM of the key that checkpoints must be signed with where there is no
	// Witness, whose key counts then.
	Key string
}

// Run checks a log.
func Run(ctx context.Context, s Source, o Options) (*Report, error) {
	// Before the lines, so that these reach at least as far.
	signed, err := s.Checkpoints(ctx)
	if err != nil {
		return nil, err
	}
	if len(signed) == 0 {
		return nil, errors.New("the log has no signed checkpoint: nothing vouches for its end")
	}
	r := &Report{Checkpoints: len(signed)}
	w := &wanted{key: o.Key, hashes: map[uint64]string{}}
	if o.Witness != nil {
		old, err := o.Witness.Verify()
		if err != nil {
			return nil, fmt.Errorf("witness: %w", err)
		}
		r.Since, w.key, w.instance = old.Seq, o.Witness.PublicKey, old.Instance
		if err := w.add(old); err != nil {
			return nil, err
		}
	}
	var newest *auditlog.Checkpoint
	for _, x := range signed {
		c, err := w.verify(&x)
		if err != nil {
			return nil, err
		}
		if err := w.add(c); err != nil {
			return nil, err
		}
		if newest == nil || c.Seq >= newest.Seq {
			newest, r.Witness = c, x
		}
	}
	received, err := w.received(o.Received)
	if err != nil {
		return nil, err
	}
	chain, out := auditlog.NewChain(), newOutcomes()
	if err := w.check(chain); err != nil {
		return nil, err
	}
	err = s.Lines(ctx, func(line []byte) error {
		if err := chain.Next(line); err != nil {
			return err
		}
		if chain.Seq == 1 {
			if err := r.take(w, received, chain.First, &o); err != nil {
				return err
			}
		}
		if err := out.take(line); err != nil {
			return err
		}
		return w.check(chain)
	})
	if err != nil {
		return nil, err
	}
	if chain.Seq == 0 && len(o.Received) > 0 {
		return nil, errors.New("the log is empty, and the witness has checkpoints: it was cut off")
	}
	for seq := range w.hashes {
		return nil, fmt.Errorf("the log ends at record %d, and record %d was signed: it was cut off", chain.Seq, seq)
	}
	r.Records, r.Hash, r.Releases = chain.Seq, chain.Hash, out.releases()
	return r, nil
}

// Folder is a log in files, as a trustee has them or as they were copied.
type Folder string

const (
	checkpointFile = "checkpoints.jsonl"
	maxCheckpoints = 64 << 20
)

// Lines implements Source. An unfinished last line was never acknowledged and does
// not count.
func (d Folder) Lines(ctx context.Context, fn func([]byte) error) error {
	names, err := filepath.Glob(filepath.Join(string(d), "audit-*.jsonl"))
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("no audit-*.jsonl in %s", d)
	}
	slices.Sort(names)
	for i, n := range names {
		if err := fileLines(ctx, n, i == len(names)-1, fn); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(n), err)
		}
	}
	return nil
}

func fileLines(ctx context.Context, name string, last bool, fn func([]byte) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, auditlog.MaxLine+1)
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			if len(line) > 0 && !last {
				return errors.New("the last line is unfinished, and there is a later file")
			}
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("reading a line: %w", err)
		}
		if err := fn(line[:len(line)-1]); err != nil {
			return err
		}
	}
}

// Checkpoints implements Source. Their key is the caller's to name.
func (d Folder) Checkpoints(context.Context) ([]auditlog.Signed, error) {
	f, err := os.Open(filepath.Join(string(d), checkpointFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxCheckpoints+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", checkpointFile, err)
	}
	if len(b) > maxCheckpoints {
		return nil, fmt.Errorf("%s: more than %d bytes", checkpointFile, maxCheckpoints)
	}
	var out []auditlog.Signed
	for line := range bytes.Lines(b) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // a crash left it unfinished
		}
		var raw string
		if err := json.Unmarshal(line, &raw); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", checkpointFile, len(out)+1, err)
		}
		out = append(out, auditlog.Signed{Checkpoint: raw})
	}
	return out, nil
}

// Remote is the log of a trustee that answers.
type Remote struct {
	Page       func(ctx context.Context, after uint64, limit int) ([]string, error)
	Checkpoint func(context.Context) (*auditlog.Signed, error)
}

const page = 1000

// Lines implements Source.
func (r *Remote) Lines(ctx context.Context, fn func([]byte) error) error {
	for after := uint64(0); ; {
		l, err := r.Page(ctx, after, page)
		if err != nil {
			return err
		}
		if len(l) == 0 {
			return nil
		}
		for _, s := range l {
			if err := fn([]byte(s)); err != nil {
				return err
			}
			after++
		}
	}
}

// Checkpoints implements Source.
func (r *Remote) Checkpoints(ctx context.Context) ([]auditlog.Signed, error) {
	s, err := r.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	return []auditlog.Signed{*s}, nil
}

// maxWitness bounds a witness's file.
const maxWitness = 64 << 10

// ReadWitness reads a witness; nil where there is no such file.
func ReadWitness(name string) (*auditlog.Signed, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxWitness))
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	w := new(auditlog.Signed)
	if err := d.Decode(w); err != nil {
		return nil, fmt.Errorf("witness %s: %w", name, err)
	}
	return w, nil
}

// WriteWitness replaces a witness at once.
func WriteWitness(name string, w *auditlog.Signed) error {
	b, err := json.MarshalIndent(w, "", "  ")
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = io.Copy(tmp, strings.NewReader(string(b)+"\n"))
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	return nil
}
