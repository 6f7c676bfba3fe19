package volume

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A store is a file that keeps a volume where the guest has no disks: the header, and
// two places for a snapshot, which are written in turn.
//
// Where the members of a place's head are; all numbers are little endian.
const (
	snapshotMagic = "coffersn"
	atSequence    = 8  // 64 bits: the higher one is the later one
	atLength      = 16 // 64 bits: bytes of the content
	atPlaceSalt   = 24
	atPlaceMAC    = atPlaceSalt + saltSize // HMAC-SHA256 of the place's number and all before

	placeHead = 4096 // bytes; the content follows
	chunkSize = 64 << 10
	chunkTag  = 16
)

// errSnapshot: neither place holds what a guest has left there.
var errSnapshot = errors.New("no snapshot that belongs to the volume")

// errRoom: more than a place holds.
var errRoom = errors.New("the volume's content is larger than its store has room for")

// place is one of a store's two.
type place struct {
	f    storeFile
	k    *keys
	n    byte  // 0 or 1
	at   int64 // of its head
	size int64 // with its head
}

// storeFile is what a store needs of its file.
type storeFile interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// places gives the two of a store of this size.
func places(f storeFile, k *keys, size uint64) [2]*place {
	each := (int64(size) - HeaderSize) / 2 / placeHead * placeHead
	return [2]*place{{f, k, 0, HeaderSize, each}, {f, k, 1, HeaderSize + each, each}}
}

// room is the most that a place holds, in bytes of content.
func (p *place) room() int64 {
	return (p.size - placeHead) / (chunkSize + chunkTag) * chunkSize
}

// placed is what a place's head says.
type placed struct {
	sequence, length uint64
	salt             [saltSize]byte
}

func (p *place) mac(head []byte) []byte {
	m := hmac.New(sha256.New, p.k.header)
	m.Write([]byte{p.n})
	m.Write(head[:atPlaceMAC])
	return m.Sum(nil)
}

// head reads the place's; nil: none that belongs there.
func (p *place) head() (*placed, error) {
	b := make([]byte, placeHead)
	if _, err := p.f.ReadAt(b, p.at); err != nil {
		return nil, fmt.Errorf("reading the store: %w", err)
	}
	if string(b[:len(snapshotMagic)]) != snapshotMagic || !hmac.Equal(b[atPlaceMAC:atPlaceMAC+sha256.Size], p.mac(b)) {
		return nil, nil
	}
	h := &placed{sequence: binary.LittleEndian.Uint64(b[atSequence:]), length: binary.LittleEndian.Uint64(b[atLength:])}
	copy(h.salt[:], b[atPlaceSalt:])
	if h.length > uint64(p.room()) {
		return nil, nil
	}
	return h, nil
}

// seals gives the cipher of one snapshot: its key is its own, so that chunks are
// numbered from 0.
func (p *place) seals(salt []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, p.k.crypt, salt, "coffer-volume-1 snapshot", 32)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// nonce of a chunk; the last one of a snapshot has another, so that none can be cut.
func nonce(n uint64, last bool) []byte {
	b := make([]byte, 12)
	binary.BigEndian.PutUint64(b[4:], n)
	if last {
		b[0] = 1
	}
	return b
}

// save writes a snapshot, whose content put gives, into the place. Its head comes
// last: a guest that ends before leaves the other place's snapshot as the latest.
func (p *place) save(sequence uint64, put func(io.Writer) error) error {
	h := &placed{sequence: sequence}
	_, _ = rand.Read(h.salt[:]) // never fails
	aead, err := p.seals(h.salt[:])
	if err != nil {
		return fmt.Errorf("saving: %w", err)
	}
	w := &chunkWriter{p: p, aead: aead}
	b := bufio.NewWriterSize(w, chunkSize)
	if err := put(b); err != nil {
		return fmt.Errorf("saving: %w", err)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("saving: %w", err)
	}
	if err := w.finish(); err != nil {
		return fmt.Errorf("saving: %w", err)
	}
	if err := p.f.Sync(); err != nil {
		return fmt.Errorf("saving: %w", err)
	}
	head := make([]byte, placeHead)
	copy(head, snapshotMagic)
	binary.LittleEndian.PutUint64(head[atSequence:], sequence)
	binary.LittleEndian.PutUint64(head[atLength:], w.length)
	copy(head[atPlaceSalt:], h.salt[:])
	copy(head[atPlaceMAC:], p.mac(head))
	if _, err := p.f.WriteAt(head, p.at); err != nil {
		return fmt.Errorf("saving: %w", err)
	}
	if err := p.f.Sync(); err != nil {
		return fmt.Errorf("saving: %w", err)
	}
	return nil
}

// chunkWriter encrypts what it is given, a chunk at a time. One chunk stays back, since
// the last one is marked.
type chunkWriter struct {
	p      *place
	aead   cipher.AEAD
	n      uint64
	held   []byte
	length uint64
}

func (w *chunkWriter) Write(b []byte) (int, error) {
	done := 0
	for len(b) > 0 {
		if len(w.held) == chunkSize {
			if err := w.put(false); err != nil {
				return done, err
			}
		}
		n := min(len(b), chunkSize-len(w.held))
		w.held = append(w.held, b[:n]...)
		b, done = b[n:], done+n
	}
	return done, nil
}

func (w *chunkWriter) put(last bool) error {
	w.length += uint64(len(w.held))
	if w.length > uint64(w.p.room()) {
		return errRoom
	}
	sealed := w.aead.Seal(nil, nonce(w.n, last), w.held, nil)
	_, err := w.p.f.WriteAt(sealed, w.p.at+placeHead+int64(w.n)*(chunkSize+chunkTag))
	w.n++
	w.held = w.held[:0]
	return err
}

func (w *chunkWriter) finish() error { return w.put(true) }

// load hands a snapshot's content to take, chunk by chunk, each once it has
// authenticated.
func (p *place) load(h *placed, take func(io.Reader) error) error {
	aead, err := p.seals(h.salt[:])
	if err != nil {
		return fmt.Errorf("reading a snapshot: %w", err)
	}
	r := &chunkReader{p: p, aead: aead, left: h.length}
	if err := take(r); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // to the mark of its end
		return err
	}
	return nil
}

type chunkReader struct {
	p    *place
	aead cipher.AEAD
	n    uint64
	left uint64 // bytes of content not yet read from the file
	have []byte
	last bool
}

func (r *chunkReader) Read(b []byte) (int, error) {
	for len(r.have) == 0 {
		if r.last {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, r.have)
	r.have = r.have[n:]
	return n, nil
}

func (r *chunkReader) next() error {
	size := min(r.left, chunkSize)
	r.last = r.left <= chunkSize
	sealed := make([]byte, size+chunkTag)
	if _, err := r.p.f.ReadAt(sealed, r.p.at+placeHead+int64(r.n)*(chunkSize+chunkTag)); err != nil {
		return fmt.Errorf("reading a snapshot: %w", err)
	}
	plain, err := r.aead.Open(sealed[:0], nonce(r.n, r.last), sealed, nil)
	if err != nil {
		return fmt.Errorf("reading a snapshot: chunk %d does not authenticate", r.n)
	}
	r.have, r.left, r.n = plain, r.left-size, r.n+1
	return nil
}

// latest gives the place with the later snapshot, and the other one.
func latest(ps [2]*place) (from, other *place, h *placed, err error) {
	for i, p := range ps {
		got, err := p.head()
		if err != nil {
			return nil, nil, nil, err
		}
		if got != nil && (h == nil || got.sequence > h.sequence) {
			from, other, h = p, ps[1-i], got
		}
	}
	if h == nil {
		return nil, nil, nil, errSnapshot
	}
	return from, other, h, nil
}
