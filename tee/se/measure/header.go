// Package measure reads from a Secure Execution boot image what attests to it: the
// digests and the tag in its header. They are made when the image is encrypted and
// cannot be computed without its keys, so there is nothing to recompute.
//
// Trust zone: owner (reference values); linked by no guest.
package measure

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cofferproject/coffer/tee/se"
)

// The header (s390-tools, boot request control block), all numbers big-endian.
const (
	headSize    = 0x1a0 // to the tweak list digest's end
	slotSize    = se.PHKHSize + 32 + 16
	headVersion = 0x100
	maxKeys     = (maxHeader - headSize) / slotSize
	maxHeader   = 64 << 10
	page        = 4096
	scanPages   = 0x15

	metaOffset  = 0xc000
	metaSize    = 28
	metaVersion = 1
)

var (
	headMagic = []byte("IBMSecEx")
	metaMagic = []byte("SeImgLnx")
)

// Header is what of an image's header concerns attestation.
type Header struct {
	Tags *se.Tags
	// ControlFlags are the plaintext control flags: whether the host may dump the
	// guest, and more. They are under the tag, but evidence does not show them.
	ControlFlags uint64
	// HostKeys are the hashes of the host keys that the image is encrypted for, 32
	// bytes each: the machines that can run it. They are under the tag.
	HostKeys [][]byte
}

// flagDump is plaintext control flag 34, counted from the highest bit: the host may
// ask for an encrypted dump.
const flagDump = 1 << (63 - 34)

// AllowsDump reports whether the host may dump the guest (encrypted).
func (h *Header) AllowsDump() bool { return h.ControlFlags&flagDump != 0 }

// ReadHeader finds and reads the header of an image, or of a header file.
func ReadHeader(r io.ReaderAt) (*Header, error) {
	at, err := find(r)
	if err != nil {
		return nil, fmt.Errorf("secure execution image: %w", err)
	}
	var b [headSize]byte
	if err := readAt(r, b[:], at); err != nil {
		return nil, fmt.Errorf("secure execution image: header: %w", err)
	}
	be := binary.BigEndian
	version, size := be.Uint32(b[8:]), int64(be.Uint32(b[12:]))
	keys, encrypted := be.Uint64(b[0x20:]), be.Uint64(b[0x28:])
	switch {
	case version != headVersion:
		return nil, fmt.Errorf("secure execution image: header version %#x is not supported, only %#x", version, headVersion)
	case size < headSize+se.TagSize || size > maxHeader:
		return nil, fmt.Errorf("secure execution image: header of %d bytes", size)
	case keys == 0 || keys > maxKeys || encrypted > maxHeader || int64(headSize+keys*slotSize+encrypted+se.TagSize) != size:
		return nil, fmt.Errorf("secure execution image: header of %d bytes with %d key slots and %d bytes encrypted", size, keys, encrypted)
	}
	rest := make([]byte, size-headSize)
	if err := readAt(r, rest, at+headSize); err != nil {
		return nil, fmt.Errorf("secure execution image: header's key slots and tag: %w", err)
	}
	tags, err := se.ParseTags(append(bytes.Clone(b[0xe0:headSize]), rest[len(rest)-se.TagSize:]...))
	if err != nil {
		return nil, err
	}
	h := &Header{Tags: tags, ControlFlags: be.Uint64(b[0x38:])}
	for i := range int(keys) {
		h.HostKeys = append(h.HostKeys, rest[i*slotSize:][:se.PHKHSize:se.PHKHSize])
	}
	return h, nil
}

// find looks where the image's metadata say, else at the beginning of the first
// pages.
func find(r io.ReaderAt) (int64, error) {
	var meta [metaSize]byte
	if err := readAt(r, meta[:], metaOffset); err == nil && bytes.Equal(meta[:8], metaMagic) {
		if v := binary.BigEndian.Uint32(meta[16:]); v != metaVersion {
			return 0, fmt.Errorf("metadata version %d is not supported, only %d", v, metaVersion)
		}
		at := binary.BigEndian.Uint64(meta[8:])
		if at > 1<<40 {
			return 0, fmt.Errorf("header at %#x", at)
		}
		if !magicAt(r, int64(at)) {
			return 0, errors.New("no header where the metadata say")
		}
		return int64(at), nil
	}
	for i := range int64(scanPages) {
		if magicAt(r, i*page) {
			return i * page, nil
		}
	}
	return 0, errors.New("no header found")
}

func magicAt(r io.ReaderAt, at int64) bool {
	var b [8]byte
	return readAt(r, b[:], at) == nil && bytes.Equal(b[:], headMagic)
}

func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
