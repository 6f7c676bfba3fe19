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
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/auditlog"
	"github.com/cofferproject/coffer/trustee/keyring"
)

// CheckpointFile has the signed checkpoints, beside the log.
const CheckpointFile = "checkpoints.jsonl"

// Checkpointer signs what the end of a log is.
type Checkpointer struct {
	// Publish, if set before the first Write, gets every checkpoint that was written.
	// It does not wait.
	Publish func(auditlog.Signed)

	log      *Log
	key      crypto.Signer
	public   string
	instance string
	walks    walks

	mu   sync.Mutex
	last uint64    // written to the file by this process
	at   time.Time // when that was
}

// NewCheckpointer makes one for a log.
func NewCheckpointer(l *Log, key crypto.Signer, instance string) (*Checkpointer, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	if err := l.w.m.openCheckpoints(); err != nil {
		return nil, fmt.Errorf("audit: checkpoints: %w", err)
	}
	p := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return &Checkpointer{log: l, key: key, public: p, instance: instance}, nil
}

// Now gives a checkpoint of the last durable record.
func (c *Checkpointer) Now(ctx context.Context) (*auditlog.Signed, *auditlog.Checkpoint, error) {
	p := &pending{err: make(chan error, 1)}
	if err := c.log.push(ctx, p); err != nil {
		return nil, nil, err
	}
	what := &auditlog.Checkpoint{Instance: c.instance, Log: p.id, Seq: p.seq, Hash: p.hash, Time: c.log.cfg.Now().UTC()}
	raw, err := what.Sign(c.key)
	if err != nil {
		return nil, nil, err
	}
	return &auditlog.Signed{Checkpoint: raw, PublicKey: c.public}, what, nil
}

// SignAgain is how often at least the end of a log in a store is signed, also one that has
// not grown: so long as its server lives, what is signed about it is not old (Remove).
// Whoever calls Write does it so often.
const SignAgain = time.Hour

// Write keeps a checkpoint if the log has grown since the last one.
func (c *Checkpointer) Write(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, what, err := c.Now(ctx)
	if err != nil {
		return err
	}
	if what.Seq == c.last && (c.log.cfg.Store == nil || what.Time.Sub(c.at) < SignAgain) {
		return nil
	}
	if err := c.log.w.m.keep(s.Checkpoint, c.public); err != nil {
		return fmt.Errorf("audit: checkpoint: %w", err)
	}
	c.last, c.at = what.Seq, what.Time
	if c.Publish != nil {
		c.Publish(*s)
	}
	return nil
}

// keep puts a line at the end of the file of checkpoints, or leaves the file as it was.
func (d *folder) keep(signed, _ string) error {
	line, err := json.Marshal(signed)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	f, err := os.OpenFile(filepath.Join(d.dir, CheckpointFile), os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := repair(f)
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		// Where this fails as well, the next line's repair does it.
		return errors.Join(err, f.Truncate(size))
	}
	return keyring.SyncDir(d.dir)
}

// openCheckpoints is repair at the start; there may be no file yet.
func (d *folder) openCheckpoints() error {
	f, err := os.OpenFile(filepath.Join(d.dir, CheckpointFile), os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = repair(f)
	return err
}

// repair cuts off a last line that a crash or a full disk left unfinished, and gives
// the file's size.
func repair(f *os.File) (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	tail := make([]byte, min(fi.Size(), maxLine))
	if _, err := f.ReadAt(tail, fi.Size()-int64(len(tail))); err != nil {
		return 0, err
	}
	end := bytes.LastIndexByte(tail, '\n') + 1
	if end == len(tail) {
		return fi.Size(), nil
	}
	if end == 0 && fi.Size() > maxLine {
		return 0, fmt.Errorf("%s: no line ends in its last %d bytes", CheckpointFile, maxLine)
	}
	size := fi.Size() - int64(len(tail)-end)
	return size, f.Truncate(size)
}
