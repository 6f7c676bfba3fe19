package auditlog

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"time"
)

// ActionRemoved is the action of the record of a removal.
const ActionRemoved = "remove audit log"

// Removed is what the record of a removal says about the log that was removed.
type Removed struct {
	Log    string `json:"log"`    // hash of its first line
	Seq    uint64 `json:"seq"`    // of its last line
	Hash   string `json:"hash"`   // of its last line
	SHA256 string `json:"sha256"` // hex, of all of it: Digest
}

// Removal is what is kept of a log that was removed, beside its signed end.
type Removal struct {
	Time   time.Time `json:"time"`
	Actor  string    `json:"actor"`
	SHA256 string    `json:"sha256"` // hex, of all of it: Digest
	// Log and Record say where the removal is on record: the hash of that log's first
	// line, "" where the trustee does not know it, and the record's number.
	Log    string `json:"log"`
	Record uint64 `json:"record"`
}

// Digest is the SHA-256 of a whole log: of its lines, each with its newline, as they
// are in one file.
type Digest struct{ h hash.Hash }

// NewDigest begins before the first line.
func NewDigest() *Digest { return &Digest{sha256.New()} }

// Add takes a line without its newline.
func (d *Digest) Add(line []byte) {
	d.h.Write(line)
	d.h.Write([]byte{'\n'})
}

// Hex gives the digest of what was added so far.
func (d *Digest) Hex() string { return hex.EncodeToString(d.h.Sum(nil)) }

// RemovedBy gives what a line says about the removal of a log; nil: it is the record of
// something else.
func RemovedBy(line []byte) (*Removed, error) {
	var e struct {
		Kind   string   `json:"kind"`
		Action string   `json:"action"`
		Log    *Removed `json:"log"`
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	if e.Kind != KindAdmin || e.Action != ActionRemoved {
		return nil, nil
	}
	if e.Log == nil || !isHash(e.Log.Log) || !isHash(e.Log.Hash) || !isHash(e.Log.SHA256) {
		return nil, fmt.Errorf("record of a removal that does not say of what: %.200q", line)
	}
	return e.Log, nil
}
