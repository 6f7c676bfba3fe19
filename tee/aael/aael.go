// Package aael keeps the attestation agent's event log (AAEL): what the guest
// did after boot, each entry extended into a run-time register (RTMR, PCR, CCMR)
// and written behind the firmware's log, so that a verifier replays both.
// SPEC.md has the format and the order of writing.
//
// Invariants: at every moment at which the process may die, the next Open makes
// register and log agree again, or fails; it never starts a log that does not
// replay. The register in an entry is the one that was extended. Text that a
// reader could split in two ways is refused. The log is bounded, so that it
// always fits into evidence.
//
// Trust zone: guest; the trustee reads entries with Parse, Check and Explain.
package aael

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/eventlog"
)

const (
	// Dir is where the published agent keeps the log, and where others read it.
	Dir = "/run/attestation-agent"
	// DefaultPCR is the register of events that name none: RTMR 3 on TDX.
	DefaultPCR = 17
	// MaxSize bounds the log, well below eventlog.MaxCCSize.
	MaxSize = 512 << 10

	logName = "eventlog"
	walName = ".wal_event_entry"
	tmpName = ".wal_event_entry.new"
)

// Errors that callers tell apart.
var (
	// ErrFull: one more entry would make the log larger than MaxSize. Nothing was
	// extended.
	ErrFull = errors.New("the event log is full")
	// ErrRegister: a register has a value that this log does not explain, so
	// something else extended it, or it was reset.
	ErrRegister = errors.New("the register was changed by something else")
)

// Options say where and how a log is kept.
type Options struct {
	Extender attest.Extender
	// FirstIndex is the number that the log gives to the Extender's register 0:
	// 1 for RTMRs, since a confidential computing log calls MRTD 0; 0 for PCRs.
	FirstIndex uint32
	// Own are registers of the Extender that were zero when the guest started and
	// that nothing but this log extends (RTMR 3): Open refuses a log that does not
	// replay to them, such as one that was deleted.
	Own []int
}

// Log is an open log. It is safe for concurrent use, by one process alone.
type Log struct {
	o    Options
	alg  eventlog.Algorithm
	root *os.Root

	mu    sync.Mutex
	log   *os.File
	size  int64
	known map[int][]byte // what registers hold after this process's last event
}

// Open opens or makes the log in dir, which must exist, and brings an entry to
// its end at which a former process died.
func Open(ctx context.Context, dir string, o Options) (*Log, error) {
	if o.Extender == nil {
		return nil, errors.New("opening event log: no extender given")
	}
	alg, ok := eventlog.ByName(o.Extender.Hash())
	if !ok {
		return nil, fmt.Errorf("opening event log: unknown hash %q", o.Extender.Hash())
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening event log: %w", err)
	}
	l := &Log{o: o, alg: alg, root: root, known: map[int][]byte{}}
	if err := l.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening event log: %w", err), l.Close())
	}
	return l, nil
}

func (l *Log) start(ctx context.Context) error {
	var err error
	if l.log, err = l.root.OpenFile(logName, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return err
	}
	// A half-written WAL was never renamed, so nothing was extended for it.
	if err := l.root.Remove(tmpName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := l.recover(ctx); err != nil {
		return err
	}
	b, err := l.read()
	if err != nil {
		return err
	}
	entries, err := Parse(b, l.alg)
	if err != nil {
		return err
	}
	l.size = int64(len(b))
	return l.replay(ctx, entries)
}

// replay holds the registers that are this log's own against it.
func (l *Log) replay(ctx context.Context, entries []Entry) error {
	for _, r := range l.o.Own {
		want := make([]byte, l.alg.Size())
		for _, e := range entries {
			if e.Index != l.o.FirstIndex+uint32(r) {
				continue
			}
			text, err := e.Text()
			if err != nil {
				return err
			}
			ev := eventlog.NewAAEL(e.Index, text, l.alg)
			want = l.alg.Hash(append(want, ev.Digests[0].Sum...))
		}
		now, err := l.o.Extender.Read(ctx, r)
		if err != nil {
			return fmt.Errorf("reading register %d: %w", r, err)
		}
		if !bytes.Equal(now, want) {
			return fmt.Errorf("register %d is %x, the log replays to %x: %w", r, now, want, ErrRegister)
		}
		l.known[r] = want
	}
	return nil
}

// Close closes the files; the log stays.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	if l.log != nil {
		err = l.log.Close()
	}
	return errors.Join(err, l.root.Close())
}

// Register gives the register that takes events of pcr.
func (l *Log) Register(pcr int) (int, error) { return l.o.Extender.Register(pcr) }

// Extend records an event: the register that takes events of pcr is extended,
// and the entry is on disk, before it returns nil. After an error the event may
// still come to be recorded, by the next Extend or Open.
func (l *Log) Extend(ctx context.Context, pcr int, e Event) error {
	text, err := e.Text()
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	register, err := l.Register(pcr)
	if err != nil {
		return fmt.Errorf("event of PCR %d: %w", pcr, err)
	}
	if register < 0 || register > 23 {
		return fmt.Errorf("event of PCR %d: register %d is out of range", pcr, register)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.extend(ctx, register, text); err != nil {
		return fmt.Errorf("recording event: %w", err)
	}
	return nil
}

func (l *Log) extend(ctx context.Context, register int, text string) error {
	// An earlier Extend may have failed half-way.
	if err := l.recover(ctx); err != nil {
		return err
	}
	entry := eventlog.NewAAEL(l.o.FirstIndex+uint32(register), text, l.alg)
	raw := entry.Append(nil)
	if l.size+int64(len(raw)) > MaxSize {
		return ErrFull
	}
	before, err := l.o.Extender.Read(ctx, register)
	if err != nil {
		return fmt.Errorf("reading register %d: %w", register, err)
	}
	if len(before) != l.alg.Size() {
		return fmt.Errorf("register %d has %d bytes, %s has %d", register, len(before), l.alg, l.alg.Size())
	}
	if k, ok := l.known[register]; ok && !bytes.Equal(k, before) {
		return fmt.Errorf("register %d is %x, after the last event it was %x: %w", register, before, k, ErrRegister)
	}
	w := &wal{offset: l.size, register: register, before: before, entry: raw}
	if err := l.writeWAL(w); err != nil {
		return err
	}
	return l.finish(ctx, w, entry.Digests[0].Sum)
}

// finish does what the WAL announces, from whatever point it was left at.
func (l *Log) finish(ctx context.Context, w *wal, digest []byte) error {
	after := l.alg.Hash(append(bytes.Clone(w.before), digest...))
	now, err := l.o.Extender.Read(ctx, w.register)
	if err != nil {
		return fmt.Errorf("reading register %d: %w", w.register, err)
	}
	switch {
	case bytes.Equal(now, after): // died behind the extend
	case bytes.Equal(now, w.before):
		if err := l.o.Extender.Extend(ctx, w.register, digest); err != nil {
			err = fmt.Errorf("extending register %d: %w", w.register, err)
			if errors.Is(err, attest.ErrUnsupported) {
				// Nothing was extended and nothing will be: the event never was.
				err = errors.Join(err, l.removeWAL())
			}
			return err
		}
		if now, err = l.o.Extender.Read(ctx, w.register); err != nil {
			return fmt.Errorf("reading register %d: %w", w.register, err)
		}
		if !bytes.Equal(now, after) {
			return fmt.Errorf("register %d is %x after an extend, want %x: %w", w.register, now, after, ErrRegister)
		}
	default:
		return fmt.Errorf("register %d is %x, neither %x from before the event nor %x from behind it: %w", w.register, now, w.before, after, ErrRegister)
	}
	if err := l.put(w.offset, w.entry); err != nil {
		return err
	}
	l.known[w.register] = after
	l.size = w.offset + int64(len(w.entry))
	return l.removeWAL()
}

// put writes the entry at its place and cuts what a former attempt left there.
func (l *Log) put(offset int64, entry []byte) error {
	if _, err := l.log.WriteAt(entry, offset); err != nil {
		return err
	}
	if err := l.log.Truncate(offset + int64(len(entry))); err != nil {
		return err
	}
	return l.log.Sync()
}

// Bytes gives the entries, nil if there is none: what stands behind the
// firmware's log in evidence.
func (l *Log) Bytes() ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, err := l.read()
	if err != nil {
		return nil, fmt.Errorf("reading event log: %w", err)
	}
	if int64(len(b)) < l.size {
		return nil, fmt.Errorf("reading event log: %d bytes of %d are left", len(b), l.size)
	}
	// Behind it may be an entry that is not yet announced as complete.
	return b[:l.size:l.size], nil
}
