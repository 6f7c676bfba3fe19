package audit

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
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
	// open replaces openCheckpoints in fault tests.
	open func(path string) (checkpointFile, error)
}

// checkpointFile is what a Checkpointer needs of a file.
type checkpointFile interface {
	file
	io.ReaderAt
	Stat() (os.FileInfo, error)
}

func openCheckpoints(path string) (checkpointFile, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
}

// NewCheckpointer makes one for a log.
func NewCheckpointer(l *Log, key crypto.Signer, instance string) (*Checkpointer, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	p := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return &Checkpointer{log: l, key: key, public: p, instance: instance, open: openCheckpoints}, nil
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
	if err := c.append(append(line, '\n')); err != nil {
		return fmt.Errorf("audit: checkpoint: %w", err)
	}
	c.last = seq
	return nil
}

// append adds a whole line or nothing. What a crash or a full disk left unfinished
// at the file's end was never acknowledged and goes.
func (c *Checkpointer) append(line []byte) (err error) {
	f, err := c.open(filepath.Join(c.log.cfg.Dir, CheckpointFile))
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	size, err := wholeLines(f)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	if _, err = f.Write(line); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(err, f.Truncate(size)) // else a reader would meet half a line
	}
	return keyring.SyncDir(c.log.cfg.Dir)
}

// wholeLines gives the size of the part of f that ends with its last newline.
func wholeLines(f checkpointFile) (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	tail := make([]byte, min(fi.Size(), maxLine))
	at := fi.Size() - int64(len(tail))
	if _, err := f.ReadAt(tail, at); err != nil {
		return 0, err
	}
	n := bytes.LastIndexByte(tail, '\n') + 1
	if n == 0 && at > 0 {
		return 0, fmt.Errorf("no line ends within the last %d bytes", len(tail))
	}
	return at + int64(n), nil
}
