// Package eventlog reads measured-boot event logs: the crypto-agile format of
// the TCG PC Client Platform Firmware Profile (TPM) and its confidential
// computing variant (CCEL, with AAEL entries behind it).
//
// A log proves nothing by itself: it is the untrusted explanation of register
// values that something else has signed. Replay says whether it fits them;
// whether its events are good is for package appraise to say.
//
// Invariants: bounded in size, events and digests; a log that is cut or bent is
// an error, never a panic and never a shorter log; text in events is data for
// people, no decision reads it.
//
// Trust zone: trustee and owner. The guest carries logs without judging them; it
// links this package for the entries' form (package aael), so it stays small.
package eventlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cofferproject/coffer/api/refvalue"
)

// Limits of a log.
const (
	MaxSize      = 4 << 20
	MaxCCSize    = 1 << 20
	MaxEvents    = 8192
	maxEventData = 1 << 20
	maxAlgs      = 8
	maxRegister  = 0xff
)

// Algorithm is a TPM_ALG_ID of a hash.
type Algorithm uint16

// Hash algorithms.
const (
	SHA1   Algorithm = 0x0004
	SHA256 Algorithm = 0x000b
	SHA384 Algorithm = 0x000c
	SHA512 Algorithm = 0x000d
	SM3    Algorithm = 0x0012
)

// sizes holds the digest lengths that the algorithms have.
var sizes = map[Algorithm]int{SHA1: 20, SHA256: 32, SHA384: 48, SHA512: 64, SM3: 32}

// Digest is one measurement in one bank.
type Digest struct {
	Algorithm Algorithm
	Sum       []byte
}

// Event is one entry of a log.
type Event struct {
	// Register is the PCR, or in a confidential computing log the index of the
	// measurement register as the log has it (0 is MRTD, 1 is RTMR 0).
	Register uint32
	Type     refvalue.EventType
	Digests  []Digest
	Data     []byte // aliases the log
}

// Sum gives the event's digest in one bank.
func (e *Event) Sum(a Algorithm) ([]byte, bool) {
	for _, d := range e.Digests {
		if d.Algorithm == a {
			return d.Sum, true
		}
	}
	return nil, false
}

// Log is a parsed log. The header event is not among Events.
type Log struct {
	Algorithms []Algorithm // in the header's order
	Events     []Event
}

var errShort = errors.New("log ends inside an entry")

// cursor reads little-endian fields and remembers the first failure.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) take(n uint32) []byte {
	if c.err != nil || uint64(n) > uint64(len(c.b)) {
		c.err = errShort
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) u8() uint8 {
	if v := c.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if v := c.take(2); v != nil {
		return binary.LittleEndian.Uint16(v)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if v := c.take(4); v != nil {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

// Parse reads a TPM event log as the kernel gives it
// (binary_bios_measurements): entries to the last byte.
func Parse(b []byte) (*Log, error) { return parse(b, false) }

// ParseCC reads a confidential computing event log: the ACPI table's area is
// larger than the log, and what follows the last entry is 0xff. AAEL entries may
// stand behind the firmware's; an entry has one digest or more, each of an
// algorithm that the header names (the header made for AAEL entries alone names
// two, and its entries have one).
func ParseCC(b []byte) (*Log, error) { return parse(b, true) }

func parse(b []byte, cc bool) (*Log, error) {
	l, _, err := parseTo(b, cc)
	return l, err
}

// parseTo also says where the entries end.
func parseTo(b []byte, cc bool) (*Log, int, error) {
	l, n, err := parseEntries(b, cc)
	if err != nil {
		return nil, 0, fmt.Errorf("event log: %w", err)
	}
	return l, n, nil
}

func parseEntries(b []byte, cc bool) (*Log, int, error) {
	limit := MaxSize
	if cc {
		limit = MaxCCSize
	}
	if len(b) > limit {
		return nil, 0, fmt.Errorf("%d bytes, at most %d", len(b), limit)
	}
	c := &cursor{b: b}
	l := new(Log)
	if err := l.header(c); err != nil {
		return nil, 0, fmt.Errorf("header: %w", err)
	}
	for len(c.b) > 0 {
		if cc && isPadding(c.b) {
			break
		}
		if len(l.Events) == MaxEvents {
			return nil, 0, fmt.Errorf("more than %d events", MaxEvents)
		}
		e, err := l.event(c, cc)
		if err != nil {
			return nil, 0, fmt.Errorf("entry %d: %w", len(l.Events), err)
		}
		l.Events = append(l.Events, e)
	}
	return l, len(b) - len(c.b), nil
}

// isPadding tells the area behind the last entry. An entry cannot begin so:
// its register would be 0xffffffff.
func isPadding(b []byte) bool {
	for _, c := range b {
		if c != 0xff {
			return false
		}
	}
	return true
}

// header reads the first entry, which has the old format and says which
// algorithms the rest has (TCG_EfiSpecIdEvent).
func (l *Log) header(c *cursor) error {
	c.u32() // register: 0 in TPM logs, 1 in confidential computing logs
	typ := refvalue.EventType(c.u32())
	c.take(20)
	size := c.u32()
	if c.err == nil && size > maxEventData {
		return fmt.Errorf("%d bytes", size)
	}
	d := &cursor{b: c.take(size)}
	if c.err != nil {
		return c.err
	}
	if typ != refvalue.NoAction {
		return fmt.Errorf("event type %s, not EV_NO_ACTION", typ)
	}
	if sig := d.take(16); d.err == nil && string(sig) != "Spec ID Event03\x00" && !bytes.Equal(sig, make([]byte, 16)) {
		return errors.New("unknown signature")
	}
	d.take(8) // platform class, version, errata, size of UINTN
	n := d.u32()
	if d.err != nil {
		return d.err
	}
	if n == 0 || n > maxAlgs {
		return fmt.Errorf("%d algorithms", n)
	}
	for range n {
		a, size := Algorithm(d.u16()), d.u16()
		if d.err != nil {
			return d.err
		}
		if want, ok := sizes[a]; !ok || want != int(size) {
			return fmt.Errorf("algorithm %#x with %d bytes", uint16(a), size)
		}
		l.Algorithms = append(l.Algorithms, a)
	}
	d.take(uint32(d.u8())) // vendor information
	if d.err != nil {
		return d.err
	}
	if len(d.b) > 0 {
		return errors.New("bytes after the header")
	}
	return nil
}

func (l *Log) event(c *cursor, cc bool) (Event, error) {
	e := Event{Register: c.u32(), Type: refvalue.EventType(c.u32())}
	n := c.u32()
	if c.err != nil {
		return e, c.err
	}
	if e.Register > maxRegister {
		return e, fmt.Errorf("register %d", e.Register)
	}
	// Every bank exactly once, in confidential computing logs at most once; a
	// doubled digest would let the log say different things to different
	// readers, and a missing one fails the replay of its bank.
	if cc && (n == 0 || int64(n) > int64(len(l.Algorithms))) || !cc && int64(n) != int64(len(l.Algorithms)) {
		return e, fmt.Errorf("%d digests, the header names %d algorithms", n, len(l.Algorithms))
	}
	for range n {
		a := Algorithm(c.u16())
		size, ok := sizes[a]
		if c.err == nil && !ok {
			return e, fmt.Errorf("unknown hash algorithm %#x", uint16(a))
		}
		if _, dup := e.Sum(a); dup {
			return e, fmt.Errorf("two digests of algorithm %#x", uint16(a))
		}
		if c.err == nil && !slices.Contains(l.Algorithms, a) {
			return e, fmt.Errorf("digest of algorithm %#x, which the header does not name", uint16(a))
		}
		e.Digests = append(e.Digests, Digest{a, c.take(uint32(size))})
	}
	size := c.u32()
	if c.err == nil && size > maxEventData {
		return e, fmt.Errorf("%d bytes of event data", size)
	}
	e.Data = c.take(size)
	return e, c.err
}
