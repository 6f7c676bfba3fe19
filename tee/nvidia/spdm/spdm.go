// Package spdm reads what an NVIDIA device signs: an SPDM 1.1 GET_MEASUREMENTS
// request followed by its response (DMTF DSP0274 1.1.1, sections 10.11.1 and
// 10.11.2), with NVIDIA's opaque data.
//
// Invariants: bounded, never panics; every byte is accounted for; what is
// unknown is an error. It verifies nothing.
//
// Trust zone: guest, trustee and owner.
package spdm

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes in bytes.
const (
	RequestSize   = 37
	NonceSize     = 32
	SignatureSize = 96 // ECDSA P-384, r and s
	maxPadding    = 1
)

const (
	version11        = 0x11
	codeRequest      = 0xe0
	codeResponse     = 0x60
	requestSignature = 0x01
	allMeasurements  = 0xff
	specDMTF         = 0x01
)

// Report is the messages, with offsets resolved.
type Report struct {
	// Signed is what the signature is over: the request and the response up to
	// the signature.
	Signed []byte
	// Signature is r and s, 48 bytes each, big-endian.
	Signature []byte
	// Nonce is the requester's, DeviceNonce the responder's.
	Nonce, DeviceNonce [NonceSize]byte
	Blocks             []Block
	Opaque             *Opaque
}

// Block is one measurement.
type Block struct {
	Index uint8 // from 1
	// Type is DMTFSpecMeasurementValueType.
	Type  uint8
	Value []byte
}

// Value gives the measurement of an index.
func (r *Report) Value(index uint8) ([]byte, bool) {
	for i := range r.Blocks {
		if r.Blocks[i].Index == index {
			return r.Blocks[i].Value, true
		}
	}
	return nil, false
}

// Parse reads a report. The slices of the result are parts of b. One zero byte
// may follow the signature, as drivers give it; it is not signed.
func Parse(b []byte) (*Report, error) {
	if len(b) < RequestSize {
		return nil, fmt.Errorf("%d bytes are no request", len(b))
	}
	slot, err := checkRequest(b[:RequestSize])
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	r := &Report{Nonce: [NonceSize]byte(b[4:36])}
	c := cursor{b: b, off: RequestSize}
	if err := r.parseResponse(&c, slot); err != nil {
		return nil, fmt.Errorf("response: %w", err)
	}
	return r, nil
}

func checkRequest(b []byte) (slot byte, err error) {
	switch {
	case b[0] != version11:
		return 0, fmt.Errorf("SPDM version %#02x, only 0x11", b[0])
	case b[1] != codeRequest:
		return 0, fmt.Errorf("code %#02x is not GET_MEASUREMENTS", b[1])
	case b[2] != requestSignature:
		return 0, fmt.Errorf("attributes %#02x do not ask for a signature alone", b[2])
	case b[3] != allMeasurements:
		return 0, fmt.Errorf("operation %#02x does not ask for all measurements", b[3])
	case b[36] > 7:
		return 0, fmt.Errorf("slot %d", b[36])
	}
	return b[36], nil
}

func (r *Report) parseResponse(c *cursor, slot byte) error {
	h, err := c.take(8)
	if err != nil {
		return err
	}
	switch {
	case h[0] != version11:
		return fmt.Errorf("SPDM version %#02x, only 0x11", h[0])
	case h[1] != codeResponse:
		return fmt.Errorf("code %#02x is not MEASUREMENTS", h[1])
	case h[2] != 0:
		return fmt.Errorf("parameter 1 is %#02x, not 0", h[2])
	case h[3] != slot:
		return fmt.Errorf("slot %d, and %d was asked for", h[3], slot)
	case h[4] == 0:
		return errors.New("no measurement")
	}
	record, err := c.take(int(h[5]) | int(h[6])<<8 | int(h[7])<<16)
	if err != nil {
		return fmt.Errorf("measurement record: %w", err)
	}
	if r.Blocks, err = parseBlocks(record, int(h[4])); err != nil {
		return fmt.Errorf("measurement record: %w", err)
	}
	nonce, err := c.take(NonceSize)
	if err != nil {
		return fmt.Errorf("nonce: %w", err)
	}
	r.DeviceNonce = [NonceSize]byte(nonce)
	size, err := c.take(2)
	if err != nil {
		return fmt.Errorf("opaque length: %w", err)
	}
	opaque, err := c.take(int(binary.LittleEndian.Uint16(size)))
	if err != nil {
		return fmt.Errorf("opaque data: %w", err)
	}
	if r.Opaque, err = parseOpaque(opaque); err != nil {
		return fmt.Errorf("opaque data: %w", err)
	}
	r.Signed = c.b[:c.off]
	if r.Signature, err = c.take(SignatureSize); err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	rest := c.b[c.off:]
	if len(rest) > maxPadding || len(rest) == maxPadding && rest[0] != 0 {
		return fmt.Errorf("%d bytes after the signature", len(rest))
	}
	return nil
}

func parseBlocks(b []byte, n int) ([]Block, error) {
	out, c := make([]Block, 0, n), cursor{b: b}
	var seen [256]bool
	for range n {
		h, err := c.take(4)
		if err != nil {
			return nil, err
		}
		if h[1] != specDMTF {
			return nil, fmt.Errorf("block %d: specification %#02x, only DMTF", h[0], h[1])
		}
		if h[0] == 0 || seen[h[0]] {
			return nil, fmt.Errorf("index %d is 0 or comes twice", h[0])
		}
		seen[h[0]] = true
		m, err := c.take(int(binary.LittleEndian.Uint16(h[2:])))
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", h[0], err)
		}
		if len(m) < 3 || int(binary.LittleEndian.Uint16(m[1:])) != len(m)-3 {
			return nil, fmt.Errorf("block %d: size of the value", h[0])
		}
		out = append(out, Block{Index: h[0], Type: m[0], Value: m[3:]})
	}
	if c.off != len(b) {
		return nil, fmt.Errorf("%d bytes after the last block", len(b)-c.off)
	}
	return out, nil
}

// cursor takes bytes from the front, never past the end.
type cursor struct {
	b   []byte
	off int
}

func (c *cursor) take(n int) ([]byte, error) {
	if n < 0 || n > len(c.b)-c.off {
		return nil, fmt.Errorf("%d bytes wanted, %d left", n, len(c.b)-c.off)
	}
	b := c.b[c.off : c.off+n : c.off+n]
	c.off += n
	return b, nil
}
