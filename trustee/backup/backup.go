// Package backup writes the trustee's store to a file and reads it back (SPEC.md
// is the format).
//
// Invariants: nothing of a backup can be read, and nothing in it is believed,
// without the envelope key that it was made under; what was cut off or changed
// anywhere is an error before the end is reported.
//
// Trust zone: trustee. A backup may lie where others can read it.
package backup

import (
	"bufio"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/store"
)

const (
	magic     = "coffer-trustee-backup 1\n"
	maxHeader = 4096
	chunkSize = 64 << 10
	keySize   = 32
)

// ErrMalformed says that a file is no whole and unchanged backup.
var ErrMalformed = errors.New("no whole and unchanged backup")

type header struct {
	Created time.Time `json:"created"`
	Key     []byte    `json:"key"`
}

// Write writes all of a store and gives the number of pairs.
func Write(ctx context.Context, w io.Writer, d store.Dumper, kek keyring.KEK, now time.Time) (int, error) {
	key := make([]byte, keySize)
	defer clear(key)
	rand.Read(key)
	sealed, err := keyring.Placed{KEK: kek}.Wrap(ctx, keyring.PlaceBackup, key)
	if err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	h, err := json.Marshal(header{now.UTC().Truncate(time.Second), sealed})
	if err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	head := append([]byte(magic), append(h, '\n')...)
	c, err := newChunks(key, head)
	if err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	if _, err := w.Write(head); err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	out, n := &writer{chunks: c, w: w}, 0
	if err := d.Dump(ctx, func(bucket, key string, value []byte) error {
		n++
		var rec []byte
		for _, f := range [][]byte{[]byte(bucket), []byte(key), value} {
			rec = append(binary.AppendUvarint(rec, uint64(len(f))), f...)
		}
		return out.write(rec)
	}); err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	if err := out.flush(true); err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	return n, nil
}

// chunks numbers and encrypts chunks.
type chunks struct {
	aead cipher.AEAD
	aad  []byte
	n    uint64
}

func newChunks(key, head []byte) (*chunks, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(head)
	return &chunks{aead: a, aad: sum[:]}, nil
}

// nonce gives the next chunk's. The key is used for one backup alone.
func (c *chunks) nonce(last bool) []byte {
	b := make([]byte, 12)
	binary.BigEndian.PutUint64(b[3:11], c.n)
	if last {
		b[11] = 1
	}
	c.n++
	return b
}

type writer struct {
	*chunks
	w   io.Writer
	buf []byte
}

func (w *writer) write(b []byte) error {
	w.buf = append(w.buf, b...)
	for len(w.buf) > chunkSize { // the last one is never empty-handed without need
		if err := w.chunk(w.buf[:chunkSize], false); err != nil {
			return err
		}
		w.buf = append(w.buf[:0], w.buf[chunkSize:]...)
	}
	return nil
}

func (w *writer) flush(last bool) error { return w.chunk(w.buf, last) }

func (w *writer) chunk(plain []byte, last bool) error {
	out := make([]byte, 4, 4+len(plain)+w.aead.Overhead())
	out = w.aead.Seal(out, w.nonce(last), plain, w.aad)
	binary.BigEndian.PutUint32(out, uint32(len(out)-4))
	_, err := w.w.Write(out)
	return err
}

// Reader gives the pairs of a backup.
type Reader struct {
	Created time.Time

	*chunks
	in    *bufio.Reader
	plain []byte
	last  bool
}

// NewReader reads a backup's head and opens its key.
func NewReader(ctx context.Context, r io.Reader, kek keyring.KEK) (*Reader, error) {
	in := bufio.NewReaderSize(r, chunkSize)
	m := make([]byte, len(magic))
	if _, err := io.ReadFull(in, m); err != nil || string(m) != magic {
		return nil, fmt.Errorf("%w: it does not begin as one", ErrMalformed)
	}
	line, err := readLine(in)
	if err != nil {
		return nil, err
	}
	var h header
	if err := json.Unmarshal(line, &h); err != nil {
		return nil, fmt.Errorf("%w: head: %w", ErrMalformed, err)
	}
	key, err := keyring.Placed{KEK: kek}.Unwrap(ctx, keyring.PlaceBackup, h.Key)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	defer clear(key)
	if len(key) != keySize {
		return nil, fmt.Errorf("%w: key of %d bytes", ErrMalformed, len(key))
	}
	c, err := newChunks(key, append([]byte(magic), line...))
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	return &Reader{Created: h.Created, chunks: c, in: in}, nil
}

// readLine gives a line with its newline.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for len(line) < maxHeader {
		b, err := in.ReadByte()
		if err != nil {
			return nil, fmt.Errorf("%w: head is cut off", ErrMalformed)
		}
		if line = append(line, b); b == '\n' {
			return line, nil
		}
	}
	return nil, fmt.Errorf("%w: head is longer than %d bytes", ErrMalformed, maxHeader)
}

// Next gives the next pair; io.EOF after the last one, and only if the backup is
// whole.
func (r *Reader) Next() (bucket, key string, value []byte, err error) {
	end, err := r.atEnd()
	if err != nil {
		return "", "", nil, err
	}
	if end {
		return "", "", nil, io.EOF
	}
	var f [3][]byte
	for i, most := range []uint64{store.MaxBucket, store.MaxKey, store.MaxValue} {
		if f[i], err = r.field(most); err != nil {
			return "", "", nil, err
		}
	}
	return string(f[0]), string(f[1]), f[2], nil
}

func (r *Reader) atEnd() (bool, error) {
	for len(r.plain) == 0 {
		if r.last {
			return true, nil
		}
		if err := r.more(); err != nil {
			return false, err
		}
	}
	return false, nil
}

// more decrypts one chunk.
func (r *Reader) more() error {
	if r.last {
		return fmt.Errorf("%w: a record is cut off", ErrMalformed)
	}
	var size [4]byte
	if _, err := io.ReadFull(r.in, size[:]); err != nil {
		return fmt.Errorf("%w: cut off before its last chunk", ErrMalformed)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < uint32(r.aead.Overhead()) || n > chunkSize+uint32(r.aead.Overhead()) {
		return fmt.Errorf("%w: chunk of %d bytes", ErrMalformed, n)
	}
	box := make([]byte, n)
	if _, err := io.ReadFull(r.in, box); err != nil {
		return fmt.Errorf("%w: cut off in a chunk", ErrMalformed)
	}
	_, err := r.in.Peek(1)
	r.last = errors.Is(err, io.EOF)
	if err != nil && !r.last {
		return fmt.Errorf("backup: %w", err)
	}
	plain, err := r.aead.Open(nil, r.nonce(r.last), box, r.aad)
	if err != nil || !r.last && len(plain) != chunkSize {
		return fmt.Errorf("%w: chunk %d was changed, or it is not the last one", ErrMalformed, r.n-1)
	}
	r.plain = plain
	return nil
}

// field reads a length and so many bytes; memory grows with what is there, not
// with what is said.
func (r *Reader) field(most uint64) ([]byte, error) {
	n, shift := uint64(0), 0
	for {
		b, err := r.byte()
		if err != nil {
			return nil, err
		}
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			break
		}
		if shift += 7; shift > 28 {
			return nil, fmt.Errorf("%w: a length is malformed", ErrMalformed)
		}
	}
	if n > most {
		return nil, fmt.Errorf("%w: a field of %d bytes, at most %d", ErrMalformed, n, most)
	}
	out := []byte{}
	for uint64(len(out)) < n {
		if len(r.plain) == 0 {
			if err := r.more(); err != nil {
				return nil, err
			}
			continue
		}
		k := min(n-uint64(len(out)), uint64(len(r.plain)))
		out = append(out, r.plain[:k]...)
		r.plain = r.plain[k:]
	}
	return out, nil
}

func (r *Reader) byte() (byte, error) {
	for len(r.plain) == 0 {
		if err := r.more(); err != nil {
			return 0, err
		}
	}
	b := r.plain[0]
	r.plain = r.plain[1:]
	return b, nil
}
