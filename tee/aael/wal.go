package aael

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/eventlog"
)

// wal announces one entry: where it will stand in the log, which register it is
// extended into and what that held before.
type wal struct {
	offset   int64
	register int
	before   []byte
	entry    []byte
}

// walMagic starts the file; the published agent's has another form, which
// does not name the register.
const walMagic = "COFFERW1"

func (w *wal) encode() []byte {
	b := append([]byte(walMagic), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(w.before)))
	binary.BigEndian.PutUint64(b[8:], uint64(w.offset))
	binary.BigEndian.PutUint32(b[16:], uint32(w.register))
	return append(append(b, w.before...), w.entry...)
}

func decodeWAL(b []byte, a eventlog.Algorithm) (*wal, error) {
	const head = len(walMagic) + 8 + 4 + 1
	if len(b) < head || string(b[:len(walMagic)]) != walMagic {
		return nil, errors.New("write-ahead entry: not of this program")
	}
	offset, register, n := binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[16:]), int(b[20])
	if offset > MaxSize || register > 23 || n != a.Size() || len(b) < head+n {
		return nil, errors.New("write-ahead entry: out of range")
	}
	return &wal{offset: int64(offset), register: int(register), before: b[head : head+n], entry: b[head+n:]}, nil
}

// writeWAL puts the announcement in place as a whole or not at all.
func (l *Log) writeWAL(w *wal) error {
	f, err := l.root.OpenFile(tmpName, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(w.encode())
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := l.root.Rename(tmpName, walName); err != nil {
		return err
	}
	return l.syncDir()
}

func (l *Log) removeWAL() error {
	if err := l.root.Remove(walName); err != nil {
		return err
	}
	return l.syncDir()
}

func (l *Log) syncDir() error {
	d, err := l.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// recover completes the entry that is announced, if any.
func (l *Log) recover(ctx context.Context) error {
	b, err := readBounded(l.root, walName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	w, err := decodeWAL(b, l.alg)
	if err != nil {
		return err
	}
	st, err := l.log.Stat()
	if err != nil {
		return err
	}
	if st.Size() < w.offset {
		return fmt.Errorf("write-ahead entry: stands at %d, the log has only %d bytes", w.offset, st.Size())
	}
	p, err := Parse(w.entry, l.alg)
	if err != nil {
		return fmt.Errorf("write-ahead entry: %w", err)
	}
	if len(p) != 1 || p[0].Index != l.o.FirstIndex+uint32(w.register) {
		return errors.New("write-ahead entry: not one entry of its register")
	}
	text, err := p[0].Text()
	if err != nil {
		return fmt.Errorf("write-ahead entry: %w", err)
	}
	e := eventlog.NewAAEL(p[0].Index, text, l.alg)
	err = l.finish(ctx, w, e.Digests[0].Sum)
	if errors.Is(err, attest.ErrUnsupported) {
		if _, e := l.root.Stat(walName); errors.Is(e, fs.ErrNotExist) {
			return nil // announced, not possible, taken back
		}
	}
	return err
}

func (l *Log) read() ([]byte, error) { return readBounded(l.root, logName) }

func readBounded(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// A WAL is smaller than the log may be.
	const limit = MaxSize + MaxContent
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", name, limit)
	}
	return b, nil
}
