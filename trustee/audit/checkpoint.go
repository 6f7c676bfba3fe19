package audit

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/trustee/keyring"
)

// CheckpointFile has the signed checkpoints, beside the log.
const CheckpointFile = "checkpoints.jsonl"

// Checkpointer signs what the end of a log is.
type Checkpointer struct {
	log      *Log
	key      crypto.Signer
	public   string
	instance string

	mu   sync.Mutex
	last uint64 // written to the file by this process
}

// NewCheckpointer makes one for a log.
func NewCheckpointer(l *Log, key crypto.Signer, instance string) (*Checkpointer, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	p := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return &Checkpointer{log: l, key: key, public: p, instance: instance}, nil
}

// Now gives a checkpoint of the last durable record.
func (c *Checkpointer) Now(ctx context.Context) (*auditlog.Signed, uint64, error) {
	p := &pending{err: make(chan error, 1)}
	if err := c.log.push(ctx, p); err != nil {
		return nil, 0, err
	}
	raw, err := (&auditlog.Checkpoint{Instance: c.instance, Seq: p.seq, Hash: p.hash, Time: c.log.cfg.Now().UTC()}).Sign(c.key)
	if err != nil {
		return nil, 0, err
	}
	return &auditlog.Signed{Checkpoint: raw, PublicKey: c.public}, p.seq, nil
}

// Write appends a checkpoint to the file if the log has grown since the last one.
func (c *Checkpointer) Write(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, seq, err := c.Now(ctx)
	if err != nil || seq == c.last {
		return err
	}
	line, err := json.Marshal(s.Checkpoint)
	if err != nil {
		return fmt.Errorf("audit: checkpoint: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(c.log.cfg.Dir, CheckpointFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("audit: checkpoint: %w", err)
	}
	_, err = f.Write(append(line, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = keyring.SyncDir(c.log.cfg.Dir)
	}
	if err != nil {
		return fmt.Errorf("audit: checkpoint: %w", err)
	}
	c.last = seq
	return nil
}
