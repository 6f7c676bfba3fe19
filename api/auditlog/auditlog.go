// Package auditlog is the form of the trustee's audit log and of its signed
// checkpoints (SPEC.md), for those who check it from outside.
//
// Invariants: a Chain accepts a line only if it follows the one before; nothing in a
// checkpoint counts before its signature is verified with a key that the caller
// names.
//
// Trust zone: trustee and owner. A log to be checked may be anybody's.
package auditlog

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/internal/jws"
	"github.com/cofferproject/coffer/api/seal"
)

// MaxLine is the longest line of a log.
const MaxLine = 64 << 10

const (
	checkpointType = "coffer-audit-checkpoint+jws"
	maxCheckpoint  = 8 << 10
)

// Kinds of records. A release is the authorisation, on disk before a byte of the
// secret leaves; what became of the answer is a record of its own with the same
// Record.
const (
	KindStart       = "start"
	KindAttest      = "attest"
	KindRelease     = "release"
	KindDelivered   = "delivered"
	KindUndelivered = "undelivered"
	KindAdmin       = "admin"
	KindDenied      = "denied"
	KindSuppressed  = "suppressed"
)

// Genesis is the hash before the first line.
var Genesis = strings.Repeat("0", 2*sha256.Size)

// ErrBroken says that a line does not follow the one before.
var ErrBroken = errors.New("the chain is broken")

// Chain follows a log line by line.
type Chain struct {
	Seq   uint64 // of the last line; 0: none yet
	Hash  string // of the last line
	First string // of the first line, "" before it
}

// NewChain begins before the first line.
func NewChain() *Chain { return &Chain{Hash: Genesis} }

// Next takes a line without its newline.
func (c *Chain) Next(line []byte) error {
	if len(line) >= MaxLine {
		return fmt.Errorf("line after %d: %d bytes, less than %d", c.Seq, len(line), MaxLine)
	}
	var e struct {
		Seq  uint64 `json:"seq"`
		Prev string `json:"prev"`
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("line after %d: %w", c.Seq, err)
	}
	if e.Seq != c.Seq+1 {
		return fmt.Errorf("%w: record %d follows record %d", ErrBroken, e.Seq, c.Seq)
	}
	if e.Prev != c.Hash {
		return fmt.Errorf("%w at record %d: record %d was changed, or this one", ErrBroken, e.Seq, c.Seq)
	}
	s := sha256.Sum256(line)
	c.Seq, c.Hash = e.Seq, hex.EncodeToString(s[:])
	if c.Seq == 1 {
		c.First = c.Hash
	}
	return nil
}

// Checkpoint is what a trustee says the end of its log is.
type Checkpoint struct {
	Instance string `json:"instance"`
	// Log is the hash of the log's first line, which tells the logs of replicas apart;
	// "" if the trustee does not know it.
	Log  string    `json:"log,omitempty"`
	Seq  uint64    `json:"seq"`
	Hash string    `json:"hash"`
	Time time.Time `json:"time"`
}

// Sign gives the checkpoint as a compact JWS.
func (c *Checkpoint) Sign(key crypto.Signer) (string, error) {
	kid, err := seal.KeyID(key.Public())
	if err != nil {
		return "", fmt.Errorf("signing checkpoint: %w", err)
	}
	b, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("signing checkpoint: %w", err)
	}
	return jws.Sign(key, jws.Header{Typ: checkpointType, Kid: kid}, b)
}

// VerifyCheckpoint checks a checkpoint with a key that the caller trusts.
func VerifyCheckpoint(raw string, key crypto.PublicKey) (*Checkpoint, error) {
	m, err := jws.Split(raw, maxCheckpoint)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	if m.Header.Typ != checkpointType {
		return nil, fmt.Errorf("checkpoint: type %.40q", m.Header.Typ)
	}
	if err := m.Verify(key); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	c := new(Checkpoint)
	if err := jws.DecodeStrict(m.Payload, c); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	if c.Log != "" && !isHash(c.Log) {
		return nil, fmt.Errorf("checkpoint: log %.80q", c.Log)
	}
	if !isHash(c.Hash) {
		return nil, fmt.Errorf("checkpoint: hash %.80q", c.Hash)
	}
	return c, nil
}

func isHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size && strings.ToLower(s) == s
}

// Signed is a checkpoint with the key that signed it: the trustee's answer, and what
// a witness keeps.
type Signed struct {
	Checkpoint string `json:"checkpoint"` // compact JWS
	PublicKey  string `json:"public_key"` // PEM, SubjectPublicKeyInfo
}

// Key reads the public key.
func (s *Signed) Key() (crypto.PublicKey, error) {
	b, rest := pem.Decode([]byte(s.PublicKey))
	if b == nil || b.Type != "PUBLIC KEY" || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("audit key: not one PUBLIC KEY in PEM")
	}
	k, err := x509.ParsePKIXPublicKey(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	return k, nil
}

// Verify checks the checkpoint with its own key, which the caller must have reason
// to believe.
func (s *Signed) Verify() (*Checkpoint, error) {
	k, err := s.Key()
	if err != nil {
		return nil, err
	}
	return VerifyCheckpoint(s.Checkpoint, k)
}
