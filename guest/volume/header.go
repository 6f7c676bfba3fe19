package volume

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// HeaderSize is the size of the header, which is a disk's first bytes.
const HeaderSize = 4096

// Where the header's members are; all numbers are little endian. What is beyond the
// MAC is zero.
const (
	magic     = "coffervl"
	version   = 1
	atVersion = 8  // 32 bits
	atKind    = 12 // 32 bits: kindFiles or kindBlock
	atSalt    = 16
	atDisk    = 48 // 64 bits: the disk's size in bytes, as it was last taken into use
	atSectors = 56 // 64 bits: sectors of the volume
	atMAC     = 64 // HMAC-SHA256 of all before
	headerEnd = atMAC + sha256.Size

	saltSize = 32
)

// What a volume is to its containers.
const (
	kindFiles = 0 // a file system
	kindBlock = 1 // a device
)

// MinKey and MaxKey bound the secret of which a volume's keys are made, in bytes.
const (
	MinKey = 32
	MaxKey = 4096
)

// errEmpty: nothing was ever written. errForeign: something else than a volume.
// errKey: a volume that was made with another key, for another name, or a header that was
// changed: these cannot be told apart. errKind: the volume, but a device where it is to be
// a file system, or the reverse. errShrunk: the volume, on a disk that had more.
var (
	errEmpty   = errors.New("the disk is empty")
	errForeign = errors.New("the disk holds something else than a volume of Coffer's")
	errKind    = errors.New("the volume is of the other kind (volumeMode Filesystem or Block)")
	errShrunk  = errors.New("the disk was larger")
	errKey     = errors.New("key, volume's name, disk's size and header do not belong together")
)

// header is what a volume's disk says of itself.
type header struct {
	salt    [saltSize]byte
	disk    uint64 // bytes
	sectors uint64 // of the volume
	block   bool   // containers have it as a device
}

// encode gives the header's bytes under the volume's keys.
func (h *header) encode(k *keys) []byte {
	b := make([]byte, HeaderSize)
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[atVersion:], version)
	if h.block {
		binary.LittleEndian.PutUint32(b[atKind:], kindBlock)
	}
	copy(b[atSalt:], h.salt[:])
	binary.LittleEndian.PutUint64(b[atDisk:], h.disk)
	binary.LittleEndian.PutUint64(b[atSectors:], h.sectors)
	copy(b[atMAC:], k.sum(b[:atMAC]))
	return b
}

// parseHeader reads what a disk begins with. Nothing of it is to be believed before
// verify.
func parseHeader(b []byte) (*header, error) {
	if len(b) != HeaderSize {
		return nil, fmt.Errorf("header of %d bytes", len(b))
	}
	if bytes.Equal(b, make([]byte, HeaderSize)) {
		return nil, errEmpty
	}
	kind := binary.LittleEndian.Uint32(b[atKind:])
	if string(b[:len(magic)]) != magic || binary.LittleEndian.Uint32(b[atVersion:]) != version || kind > kindBlock ||
		!bytes.Equal(b[headerEnd:], make([]byte, HeaderSize-headerEnd)) {
		return nil, errForeign
	}
	h := &header{disk: binary.LittleEndian.Uint64(b[atDisk:]), sectors: binary.LittleEndian.Uint64(b[atSectors:]), block: kind == kindBlock}
	copy(h.salt[:], b[atSalt:])
	return h, nil
}

// verify reports whether the bytes are a header under these keys.
func (h *header) verify(b []byte, k *keys) bool {
	return hmac.Equal(b[atMAC:headerEnd], k.sum(b[:atMAC]))
}

// Sizes of a volume's keys, in bytes: dm-crypt takes that of XTS with AES-256 and that
// of the MAC in one piece.
const (
	cryptKeySize   = 64 + 32
	journalKeySize = 32
	headerKeySize  = 32
)

// keys are a volume's own, made from the owner's secret, the header's salt and the
// volume's name.
type keys struct {
	crypt, journal, header []byte
}

// deriveKeys makes a volume's keys by HKDF-SHA256 (RFC 5869).
func deriveKeys(secret []byte, salt [saltSize]byte, name string) (*keys, error) {
	var k keys
	for _, d := range []struct {
		purpose string
		size    int
		into    *[]byte
	}{{"crypt", cryptKeySize, &k.crypt}, {"journal", journalKeySize, &k.journal}, {"header", headerKeySize, &k.header}} {
		var err error
		if *d.into, err = hkdf.Key(sha256.New, secret, salt[:], "coffer-volume-1 "+d.purpose+" "+name, d.size); err != nil {
			k.clear()
			return nil, fmt.Errorf("deriving the volume's keys: %w", err)
		}
	}
	return &k, nil
}

func (k *keys) sum(b []byte) []byte {
	m := hmac.New(sha256.New, k.header)
	m.Write(b)
	return m.Sum(nil)
}

func (k *keys) clear() {
	clear(k.crypt)
	clear(k.journal)
	clear(k.header)
}
