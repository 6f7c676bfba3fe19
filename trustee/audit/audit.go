// Package audit is the trustee's audit log: JSON lines in files, each line with
// its number and the SHA-256 of the line before, so that a change anywhere
// breaks the chain (design.md section 5; docs/trustee.md lists the fields).
//
// Invariants: Append returns nil only when the record is on disk (fsync), and
// whoever releases a secret appends first; records that wait together share one
// fsync; after an error nothing is appended until the log is again in the state
// of its last durable record. Denials go through AppendDenial, which has a
// budget, so that an unauthenticated peer cannot fill the disk.
//
// Trust zone: trustee. The chain is evidence against a careless change, and
// against a malicious one only together with an outside witness.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Kinds of records.
const (
	KindStart      = "start"      // the server has started
	KindAttest     = "attest"     // evidence was accepted
	KindRelease    = "release"    // a secret is about to leave
	KindAdmin      = "admin"      // an administrator changed something
	KindDenied     = "denied"     // a refusal
	KindSuppressed = "suppressed" // Count refusals were not recorded one by one
)

// Entry is one record. The log sets Seq, Time and Prev. docs/trustee.md says
// what each field means; no field ever holds a secret.
type Entry struct {
	Seq       uint64    `json:"seq"`
	Time      time.Time `json:"time"`
	Prev      string    `json:"prev"` // hex SHA-256 of the line before, without its newline
	Kind      string    `json:"kind"`
	Record    string    `json:"record,omitempty"` // id that the peer was told
	Namespace string    `json:"namespace,omitempty"`
	Actor     string    `json:"actor,omitempty"` // key id of an administrator
	Action    string    `json:"action,omitempty"`
	Peer      string    `json:"peer,omitempty"`
	TEE       string    `json:"tee,omitempty"`
	Simulated bool      `json:"simulated,omitempty"`
	Status    string    `json:"status,omitempty"`
	Initdata  string    `json:"initdata,omitempty"`
	Token     string    `json:"token,omitempty"`   // jti
	TEEKey    string    `json:"tee_key,omitempty"` // SHA-256 of the key's canonical JWK
	Resource  string    `json:"resource,omitempty"`
	Version   uint64    `json:"version,omitempty"`
	Seal      string    `json:"seal,omitempty"`   // by which the binding held
	Policy    string    `json:"policy,omitempty"` // resource policies that allowed it: name@version, ...
	Reason    string    `json:"reason,omitempty"`
	Component string    `json:"component,omitempty"`
	Claim     string    `json:"claim,omitempty"`
	Count     uint64    `json:"count,omitempty"`
}

// ErrClosed says that the log was closed.
var ErrClosed = errors.New("audit log is closed")

const maxGroup = 512 // records in one fsync

// Config makes a Log.
type Config struct {
	Dir string
	Now func() time.Time
	// MaxFile is the size at which a new file is begun; 0: 64 MiB.
	MaxFile int64
	// Observe, if set, hears after every write which kinds of records were in it, and
	// its outcome.
	Observe func(kinds []string, err error)
	// open replaces os.OpenFile in fault tests.
	open func(path string, flag int) (file, error)
}

// file is what the log needs of a file.
type file interface {
	Write([]byte) (int, error)
	Sync() error
	Truncate(size int64) error
	Close() error
}

// Log is an audit log. One process may have it open.
type Log struct {
	cfg   Config
	queue chan *pending
	done  chan struct{}

	mu     sync.RWMutex // guards closed against sends on queue
	closed bool

	budget *budget

	// Owned by the writer goroutine after Open.
	w writer
}

type pending struct {
	entry *Entry // nil: only a check, which is told where the log ends
	err   chan error
	seq   uint64
	hash  string
}

// Open checks the newest file's chain, cuts off a line that a crash left
// unfinished, and continues. A broken chain is an error: the log was changed.
func Open(cfg Config) (*Log, error) {
	if cfg.Now == nil || cfg.Dir == "" {
		return nil, errors.New("audit: folder or clock missing")
	}
	if cfg.MaxFile == 0 {
		cfg.MaxFile = 64 << 20
	}
	if cfg.open == nil {
		cfg.open = func(path string, flag int) (file, error) { return os.OpenFile(path, flag, 0o600) }
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	l := &Log{cfg: cfg, queue: make(chan *pending, maxGroup), done: make(chan struct{}), budget: newBudget(cfg.Now())}
	l.w = writer{cfg: &l.cfg}
	if err := l.w.load(); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	go l.writeLoop()
	return l, nil
}

// Append records e durably. e.Seq is set on return.
func (l *Log) Append(ctx context.Context, e *Entry) error {
	return l.push(ctx, &pending{entry: e, err: make(chan error, 1)})
}

func (l *Log) push(ctx context.Context, p *pending) error {
	l.mu.RLock()
	if l.closed {
		l.mu.RUnlock()
		return ErrClosed
	}
	select {
	case l.queue <- p:
		l.mu.RUnlock()
	case <-ctx.Done():
		l.mu.RUnlock()
		return ctx.Err()
	}
	return <-p.err
}

// Check reports whether the log is in step with its disk, and tries to bring it
// there after an error. It appends nothing.
func (l *Log) Check(ctx context.Context) error {
	return l.push(ctx, &pending{err: make(chan error, 1)})
}

// AppendDenial records a refusal if the budget allows it, and counts it if not.
// It reports whether it was recorded.
func (l *Log) AppendDenial(ctx context.Context, e *Entry) (bool, error) {
	e.Kind = KindDenied
	ok, missed := l.budget.take(l.cfg.Now(), int64(entrySize(e)))
	if !ok {
		return false, nil
	}
	if missed > 0 {
		if err := l.Append(ctx, &Entry{Kind: KindSuppressed, Count: missed}); err != nil {
			l.budget.giveBack(missed)
			return false, err
		}
	}
	if err := l.Append(ctx, e); err != nil {
		l.budget.giveBack(0)
		return false, err
	}
	return true, nil
}

// Close waits for what was queued. Refusals that were only counted so far are
// recorded, if the disk allows.
func (l *Log) Close() error {
	if missed := l.budget.takeMissed(); missed > 0 {
		if err := l.Append(context.Background(), &Entry{Kind: KindSuppressed, Count: missed}); err != nil && !errors.Is(err, ErrClosed) {
			l.budget.giveBack(missed - 1)
		}
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.queue)
	l.mu.Unlock()
	<-l.done
	return l.w.close()
}

func (l *Log) writeLoop() {
	defer close(l.done)
	for p := range l.queue {
		group := []*pending{p}
	gather:
		for len(group) < maxGroup {
			select {
			case n, ok := <-l.queue:
				if !ok {
					break gather
				}
				group = append(group, n)
			default:
				break gather
			}
		}
		l.commit(group)
	}
}

// commit writes what a group has to be written and tells everybody.
func (l *Log) commit(group []*pending) {
	var entries []*pending
	var kinds []string
	for _, p := range group {
		if p.entry != nil { // else a check
			entries, kinds = append(entries, p), append(kinds, p.entry.Kind)
		}
	}
	err := l.w.write(entries, l.cfg.Now())
	if l.cfg.Observe != nil && (len(entries) > 0 || err != nil) {
		l.cfg.Observe(kinds, err)
	}
	for _, p := range group {
		p.seq, p.hash = l.w.seq, l.w.prev
		p.err <- err
	}
}

func entrySize(e *Entry) int {
	b, err := json.Marshal(e)
	if err != nil {
		return 1 << 20 // cannot be recorded anyway
	}
	return len(b) + 128 // seq, time, prev
}
