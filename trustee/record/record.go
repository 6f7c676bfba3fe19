// Package record keeps the decisions that owners may ask about: the whole denial
// with measured and expected values, or what was attested, under the id that the
// guest was told. It also puts refusals into the audit log.
//
// Invariants: what an unauthenticated peer can cause is bounded, in memory and
// on disk; a denial always gets an id, and its whole text never crosses the wire
// to a guest.
//
// Trust zone: trustee.
package record

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
)

const (
	index     = "record-index"
	keep      = 1000 // records of a namespace on disk
	keepFlood = 1000 // denials in memory that came too fast for the disk
	maxRecord = 64 << 10
)

// ErrNotFound says that there is no such record, or not any more.
var ErrNotFound = errors.New("no such record, or it was too long ago")

// Book keeps records.
type Book struct {
	// Observe, if set before the first request, hears of every denial's reason.
	Observe func(reason string)
	// Notice, if set before the first request, hears of every denial. It must not wait.
	Notice func(r *trusteeapi.Record, d *denial.Denial)

	store store.Store
	audit *audit.Log
	log   *slog.Logger
	now   func() time.Time

	mu    sync.Mutex
	flood map[string]*trusteeapi.Record
	order []string // ids in flood, the oldest first
}

// New makes a Book.
func New(s store.Store, a *audit.Log, log *slog.Logger, now func() time.Time) *Book {
	return &Book{store: s, audit: a, log: log, now: now, flood: map[string]*trusteeapi.Record{}}
}

// NewID gives a record id: the time, in milliseconds, and a random number. The time has
// ids lie in the index in the order of their records, so that those of one commit share
// its pages; it decides nothing.
func NewID() string { return newID(time.Now()) }

// Bytes of an id.
const (
	idTime   = 6
	idRandom = 10
)

func newID(now time.Time) string {
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	var b [idTime + idRandom]byte
	copy(b[:idTime], ms[8-idTime:])
	rand.Read(b[idTime:])
	return hex.EncodeToString(b[:])
}

// Deny records a refusal and gives it its id. r names what was asked for.
func (b *Book) Deny(ctx context.Context, r trusteeapi.Record, d *denial.Denial) *denial.Denial {
	ctx = context.WithoutCancel(ctx) // who hangs up is recorded as well
	full := bounded(d)
	if r.ID == "" {
		r.ID = NewID()
	}
	full.RecordID = r.ID
	if b.Observe != nil {
		b.Observe(string(full.Reason))
	}
	if b.Notice != nil {
		b.Notice(&r, &full)
	}
	r.Time, r.Outcome, r.Denial = b.now().UTC(), trusteeapi.OutcomeDenied, &full
	e := &audit.Entry{
		Record: r.ID, Namespace: r.Namespace, Action: r.Kind, Peer: r.Peer, TEE: r.TEE, Simulated: r.Simulated, Initdata: r.Initdata,
		Resource: r.Resource, Reason: string(full.Reason), Component: full.Component, Claim: full.Claim,
	}
	recorded, err := b.audit.AppendDenial(ctx, e)
	if err != nil {
		b.log.Error("recording a denial failed", "record", r.ID, "error", err)
	}
	if !recorded {
		b.remember(&r)
		return &full
	}
	r.Audited = e.Seq
	if err := b.store.Update(ctx, func(tx store.Tx) error { return Put(tx, &r) }); err != nil {
		b.log.Error("keeping a denial failed", "record", r.ID, "error", err)
		b.remember(&r)
	}
	return &full
}

// maxText is the longest text of a denial that is kept: much of it comes from the
// peer.
const maxText = 2 << 10

func bounded(d *denial.Denial) denial.Denial {
	cut := func(s string) string {
		if len(s) <= maxText {
			return s
		}
		return strings.ToValidUTF8(s[:maxText], "") + " (cut)"
	}
	return denial.Denial{
		Reason: denial.Reason(cut(string(d.Reason))), Component: cut(d.Component), Claim: cut(d.Claim), Measured: cut(d.Measured),
		Expected: cut(d.Expected), Source: cut(d.Source), Detail: cut(d.Detail),
	}
}

func (b *Book) remember(r *trusteeapi.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.order) >= keepFlood {
		delete(b.flood, b.order[0])
		b.order = b.order[1:]
	}
	b.flood[r.ID] = r
	b.order = append(b.order, r.ID)
}

// records is the bucket of a namespace.
const records = "records"

// Buckets are those of a namespace, to be emptied when it is deleted.
func Buckets() []string { return []string{records} }

// Dropped is told of each value of a deleted namespace that is about to go, with the
// bucket that it is in: records are in an index of all.
func Dropped(tx store.Tx, bucket string, value []byte) error {
	if bucket != records {
		return nil
	}
	id, err := idOf(value)
	if err != nil {
		return err
	}
	return tx.Delete(index, id)
}

// Put keeps a record in a transaction and drops the oldest one too many.
func Put(tx store.Tx, r *trusteeapi.Record) error {
	raw, err := encode(r)
	if err != nil {
		return err
	}
	return put(tx, r, raw)
}

// Prepare gives what Put does as a function of the transaction alone: the record is
// encoded before, since everybody's updates wait for a transaction.
func Prepare(r *trusteeapi.Record) (func(store.Tx) error, error) {
	raw, err := encode(r)
	if err != nil {
		return nil, err
	}
	return func(tx store.Tx) error { return put(tx, r, raw) }, nil
}

func encode(r *trusteeapi.Record) ([]byte, error) {
	raw, err := withClaims(r)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	if len(raw) > maxRecord {
		short := *r
		short.Claims = map[string]any{"omitted": fmt.Sprintf("record of %d bytes, at most %d are kept", len(raw), maxRecord)}
		if raw, err = json.Marshal(short); err == nil && len(raw) > maxRecord {
			short.Appraisals = withoutReferences(r.Appraisals)
			raw, err = json.Marshal(short)
		}
		if err != nil {
			return nil, fmt.Errorf("record: %w", err)
		}
	}
	return raw, nil
}

// withClaims puts the claims last: some of them are JSON already, which encoding/json
// would read once more.
func withClaims(r *trusteeapi.Record) ([]byte, error) {
	if len(r.Claims) == 0 {
		return json.Marshal(r)
	}
	rest := *r
	rest.Claims = nil
	raw, err := json.Marshal(&rest)
	if err != nil {
		return nil, err
	}
	encoded, err := ear.EncodeEvidence(r.Claims)
	if err != nil {
		return nil, err
	}
	claims, err := encoded.MarshalJSON()
	if err != nil {
		return nil, err
	}
	return slices.Concat(raw[:len(raw)-1], []byte(`,"claims":`), claims, []byte("}")), nil
}

func put(tx store.Tx, r *trusteeapi.Record, raw []byte) error {
	bucket, meta := tenant.Bucket(r.Namespace, records), tenant.Bucket(r.Namespace, "meta")
	n := uint64(0)
	if v, err := tx.Get(meta, "records"); err != nil {
		return err
	} else if v != nil {
		n = binary.BigEndian.Uint64(v)
	}
	n++
	if err := tx.Put(meta, "records", binary.BigEndian.AppendUint64(nil, n)); err != nil {
		return err
	}
	if n > keep {
		old, err := tx.Get(bucket, key(n-keep))
		if err != nil {
			return err
		}
		if old != nil {
			id, err := idOf(old)
			if err != nil {
				return err
			}
			if err := errors.Join(tx.Delete(index, id), tx.Delete(bucket, key(n-keep))); err != nil {
				return err
			}
		}
	}
	if err := tx.Put(bucket, key(n), raw); err != nil {
		return err
	}
	return tx.Put(index, r.ID, []byte(r.Namespace+"/"+key(n)))
}

// idOf gives the id of an encoded record, which is its first member; the rest, some
// KiB, is not read where that is so.
func idOf(raw []byte) (string, error) {
	d := json.NewDecoder(bytes.NewReader(raw[:min(len(raw), 256)]))
	brace, err := d.Token()
	if name, nerr := d.Token(); err == nil && nerr == nil && brace == json.Delim('{') && name == "id" {
		if id, err := d.Token(); err == nil {
			if s, ok := id.(string); ok {
				return s, nil
			}
		}
	}
	var r struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return "", fmt.Errorf("record: %w", err)
	}
	return r.ID, nil
}

func withoutReferences(all []trusteeapi.Appraisal) []trusteeapi.Appraisal {
	out := slices.Clone(all)
	for i := range out {
		out[i].ReferencesOmitted += len(out[i].References)
		out[i].References = nil
	}
	return out
}

func key(n uint64) string { return fmt.Sprintf("%020d", n) }

// Get gives one record.
func (b *Book) Get(ctx context.Context, id string) (*trusteeapi.Record, error) {
	b.mu.Lock()
	r := b.flood[id]
	b.mu.Unlock()
	if r != nil {
		return r, nil
	}
	err := b.store.View(ctx, func(tx store.Tx) (err error) {
		r, err = In(tx, id)
		return err
	})
	return r, err
}

// In is Get inside of a transaction, of what is on disk.
func In(tx store.Tx, id string) (*trusteeapi.Record, error) {
	at, err := tx.Get(index, id)
	if err != nil {
		return nil, err
	}
	ns, k, ok := cut(string(at))
	if !ok {
		return nil, ErrNotFound
	}
	r, ok, err := store.GetJSON[trusteeapi.Record](tx, tenant.Bucket(ns, records), k)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, ErrNotFound
	}
	return r, nil
}

func cut(s string) (ns, k string, ok bool) {
	const n = 20
	if len(s) < n+2 {
		return "", "", false
	}
	return s[:len(s)-n-1], s[len(s)-n:], true
}

// Filter narrows List; zero members do not.
type Filter struct {
	Initdata, Outcome, Kind string
	Limit                   int
}

// List gives a namespace's records, the newest first.
func (b *Book) List(ctx context.Context, ns string, f Filter) ([]trusteeapi.Record, error) {
	if f.Limit <= 0 || f.Limit > keep {
		f.Limit = 100
	}
	out := []trusteeapi.Record{}
	err := b.store.View(ctx, func(tx store.Tx) error {
		if _, err := tenant.GetNamespace(tx, ns); err != nil {
			return err
		}
		return tx.ScanBack(tenant.Bucket(ns, records), func(_ string, v []byte) (bool, error) {
			var r trusteeapi.Record
			if err := json.Unmarshal(v, &r); err != nil {
				return false, fmt.Errorf("record: %w", err)
			}
			if (f.Initdata == "" || f.Initdata == r.Initdata) && (f.Outcome == "" || f.Outcome == r.Outcome) && (f.Kind == "" || f.Kind == r.Kind) {
				out = append(out, r)
			}
			return len(out) < f.Limit, nil
		})
	})
	return out, err
}
