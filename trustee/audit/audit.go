// Package audit is the trustee's audit log: JSON lines in files or in a store, each line with
// its number and the SHA-256 of the line before, so that a change anywhere
// breaks the chain (design.md section 5; docs/trustee.md lists the fields).
//
// Invariants: Append returns nil only when the record is durable (fsync or commit), and
// whoever releases a secret appends first; records that wait together share one
// of these; what AppendLater takes goes with the next of them, and nobody waits for it;
// after an error nothing is appended until the log is again in the state
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
	"slices"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/trace"
)

// Kinds of records.
const (
	KindStart       = auditlog.KindStart       // the server has started
	KindAttest      = auditlog.KindAttest      // evidence was accepted
	KindRelease     = auditlog.KindRelease     // a secret may leave: authorised
	KindDelivered   = auditlog.KindDelivered   // the answer of that Record was sent
	KindUndelivered = auditlog.KindUndelivered // it was not, or not all of it, for a Reason
	KindAdmin       = auditlog.KindAdmin       // an administrator changed something
	KindDenied      = auditlog.KindDenied      // a refusal
	KindSuppressed  = auditlog.KindSuppressed  // Count refusals were not recorded one by one
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
	Source    string    `json:"source,omitempty"` // store outside, name in it, @ and its version there
	Seal      string    `json:"seal,omitempty"`   // by which the binding held
	Policy    string    `json:"policy,omitempty"` // resource policies that allowed it: name@version, ...
	Reason    string    `json:"reason,omitempty"`
	Component string    `json:"component,omitempty"`
	Claim     string    `json:"claim,omitempty"`
	Count     uint64    `json:"count,omitempty"`
	// Log is the log that an administrator removed.
	Log *auditlog.Removed `json:"log,omitempty"`
}

// ErrClosed says that the log was closed.
var ErrClosed = errors.New("audit log is closed")

const maxGroup = 512 // records in one fsync

// Config makes a Log.
type Config struct {
	// Dir is the folder of a log in files; Store has it where Dir is "".
	Dir   string
	Store store.Store
	// Host says in Store whose log this is, such as the machine's name.
	Host string
	Now  func() time.Time
	// MaxFile, of a log in files, is the size at which a new file is begun; 0: 64 MiB.
	MaxFile int64
	// Observe, if set, hears after every write which kinds of records were in it, and
	// its outcome.
	Observe func(kinds []string, err error)
	// Lost, if set, hears of a record of AppendLater that there was no room for.
	Lost func()
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
	later bool // goes with the next group
	seq   uint64
	hash  string
	id    string // of the log
}

// Open continues the log of a folder, and begins a new one in a store: whoever
// starts without a disk of its own has nothing that says which one was its own. In a
// folder it checks the newest file's chain and cuts off a line that a crash left
// unfinished; a broken chain is an error: the log was changed.
func Open(cfg Config) (*Log, error) {
	if cfg.Now == nil || (cfg.Dir == "") == (cfg.Store == nil) {
		return nil, errors.New("audit: clock missing, or not one place for the log")
	}
	l := &Log{cfg: cfg, queue: make(chan *pending, maxGroup), done: make(chan struct{}), budget: newBudget(cfg.Now())}
	if cfg.Store != nil {
		l.w.m = newRows(cfg.Store, cfg.Host, cfg.Now())
	} else {
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		l.w.m = newFolder(&cfg)
	}
	var err error
	if l.w.at, err = l.w.m.load(); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	go l.writeLoop()
	return l, nil
}

// Read gives the lines of records with numbers above after, at most limit of
// them and about maxBytes.
func (l *Log) Read(after uint64, limit, maxBytes int) ([][]byte, error) {
	return readPage(l.w.m.read, after, limit, maxBytes)
}

func readPage(read func(uint64, func(uint64, []byte) bool) error, after uint64, limit, maxBytes int) ([][]byte, error) {
	var out [][]byte
	size := 0
	if err := read(after+1, func(_ uint64, line []byte) bool {
		out = append(out, slices.Clone(line))
		size += len(line)
		return len(out) < limit && size < maxBytes
	}); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return out, nil
}

// Append records e durably. e.Seq is set on return.
func (l *Log) Append(ctx context.Context, e *Entry) error {
	ctx, span := trace.Start(ctx, trace.SpanAudit)
	err := l.push(ctx, &pending{entry: e, err: make(chan error, 1)})
	span.End(err)
	return err
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

// AppendLater records e with the next record that somebody waits for, or within
// laterWait, and returns at once. The log owns e from now on. A record that finds no
// room is lost, as Config.Lost hears: this is for what an earlier record announced.
func (l *Log) AppendLater(e *Entry) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	// One that cannot be written would be tried with every group to come.
	if !l.closed && entrySize(e) < maxLine {
		select {
		case l.queue <- &pending{entry: e, later: true}:
			return
		default:
		}
	}
	l.lost()
}

func (l *Log) lost() {
	if l.cfg.Lost != nil {
		l.cfg.Lost()
	}
}

// Check reports whether the log is in step with its disk, and tries to bring it
// there after an error. It appends nothing.
func (l *Log) Check(ctx context.Context) error {
	return l.push(ctx, &pending{err: make(chan error, 1)})
}

// End says where the log ends: the hash of its first record, "" if there is none or it
// is gone, and the number of its last one.
func (l *Log) End(ctx context.Context) (id string, seq uint64, err error) {
	p := &pending{err: make(chan error, 1)}
	err = l.push(ctx, p)
	return p.id, p.seq, err
}

// AppendDenial records a refusal if the budget and the disk allow it, and counts it
// if not: the next one that is recorded is preceded by that count.
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
	return l.w.m.close()
}

// laterWait is how long a record of AppendLater waits for company.
const laterWait = time.Second

// gatherFor is how long a group waits for more where somebody waited in the one
// before together with others: a sync costs the same for one record and for many.
const gatherFor = time.Millisecond

func (l *Log) writeLoop() {
	defer close(l.done)
	var later []*pending
	last := 0
	timer := time.NewTimer(laterWait)
	defer timer.Stop()
	for {
		var now []*pending // somebody waits for these
		select {
		case p, ok := <-l.queue:
			if !ok {
				for range l.commit(later, nil) {
					l.lost()
				}
				return
			}
			later, now = l.sort(p, later, now)
		case <-timer.C:
			later = l.commit(later, nil)
			timer.Reset(laterWait)
			continue
		}
		if len(now) > 0 && last > 1 {
			time.Sleep(gatherFor)
		}
	gather:
		for len(now) < maxGroup && len(later) < maxGroup {
			select {
			case p, ok := <-l.queue:
				if !ok {
					break gather
				}
				later, now = l.sort(p, later, now)
			default:
				break gather
			}
		}
		if len(now) > 0 {
			last = len(now)
		}
		if len(now) > 0 || len(later) >= maxGroup {
			later = l.commit(later, now)
		}
	}
}

// sort puts a record with those that somebody waits for, or with the others, of which
// there are twice maxGroup at most.
func (l *Log) sort(p *pending, later, now []*pending) ([]*pending, []*pending) {
	switch {
	case !p.later:
		return later, append(now, p)
	case len(later) >= 2*maxGroup:
		l.lost()
		return later, now
	}
	return append(later, p), now
}

// commit writes what a group has to be written and tells everybody. It gives what is
// left for later: all of that after an error, which the next group tries again.
func (l *Log) commit(later, now []*pending) []*pending {
	group := append(slices.Clone(later), now...)
	if len(group) == 0 {
		return nil
	}
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
	for _, p := range now {
		p.seq, p.hash, p.id = l.w.at.seq, l.w.at.hash, l.w.at.id
		p.err <- err
	}
	if err != nil {
		return later
	}
	return nil
}

func entrySize(e *Entry) int {
	b, err := json.Marshal(e)
	if err != nil {
		return 1 << 20 // cannot be recorded anyway
	}
	return len(b) + 128 // seq, time, prev
}
