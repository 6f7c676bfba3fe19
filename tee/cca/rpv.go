package cca

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// What is on the way to a realm token's byte string.
const (
	tagCollection   = 399
	tagSign1        = 18
	labelRealmToken = 44241
	labelRPV        = 44235
	labelChallenge  = 10
)

// Major types of CBOR (RFC 8949, section 3.1).
const (
	majorUint  = 0
	majorNint  = 1
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
	majorTag   = 6
)

// Bounds of what is walked over.
const (
	maxItems = 64
	maxDepth = 6
)

var errCBOR = errors.New("malformed CBOR")

// PersonalizationValue reads the realm personalization value out of a token that
// this realm's own kernel got from the realm management monitor. It verifies
// nothing: a verifier does that, with the whole token. It exists so that the
// guest can compare initdata with the value it was launched with before it
// parses a byte of it.
func PersonalizationValue(token []byte) ([]byte, error) {
	return realmBytes(token, "personalization value", labelRPV, RPVSize)
}

// Challenge reads the challenge that a token is over, in the same way.
func Challenge(token []byte) ([]byte, error) {
	return realmBytes(token, "challenge", labelChallenge, ChallengeSize)
}

func realmBytes(token []byte, name string, label uint64, size int) ([]byte, error) {
	if len(token) > MaxToken {
		return nil, fmt.Errorf("cca token: %d bytes, at most %d", len(token), MaxToken)
	}
	c := &cursor{b: token}
	c.expect(majorTag, tagCollection)
	realm := c.mapBytes(labelRealmToken)
	c.end()
	c.b = realm
	c.expect(majorTag, tagSign1)
	c.expect(majorArray, 4)
	c.skip(0) // protected header
	c.skip(0) // unprotected header
	payload := c.byteString()
	c.skip(0) // signature
	c.end()
	c.b = payload
	v := c.mapBytes(label)
	c.end()
	if c.err != nil {
		return nil, fmt.Errorf("cca token: %s: %w", name, c.err)
	}
	if len(v) != size {
		return nil, fmt.Errorf("cca token: %s of %d bytes, not %d", name, len(v), size)
	}
	return v, nil
}

// cursor walks over definite-length CBOR and remembers the first failure.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) fail() { c.err, c.b = errCBOR, nil }

// head reads an item's head: major type and argument.
func (c *cursor) head() (major byte, arg uint64) {
	if c.err != nil || len(c.b) == 0 {
		c.fail()
		return 0xff, 0
	}
	major, arg = c.b[0]>>5, uint64(c.b[0]&0x1f)
	c.b = c.b[1:]
	if arg < 24 {
		return major, arg
	}
	n := 1 << (arg - 24)
	if arg > 27 || len(c.b) < n {
		c.fail()
		return 0xff, 0
	}
	var wide [8]byte
	copy(wide[8-n:], c.b)
	c.b = c.b[n:]
	return major, binary.BigEndian.Uint64(wide[:])
}

func (c *cursor) expect(major byte, arg uint64) {
	if m, a := c.head(); c.err == nil && (m != major || a != arg) {
		c.fail()
	}
}

func (c *cursor) take(n uint64) []byte {
	if c.err != nil || n > uint64(len(c.b)) {
		c.fail()
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) byteString() []byte {
	m, n := c.head()
	if m != majorBytes {
		c.fail()
		return nil
	}
	return c.take(n)
}

// mapBytes reads a map and gives the byte string under one unsigned label, which
// must be there exactly once.
func (c *cursor) mapBytes(label uint64) []byte {
	m, n := c.head()
	if m != majorMap || n > maxItems {
		c.fail()
		return nil
	}
	var found []byte
	seen := false
	for range n {
		m, a := c.head()
		switch {
		case m == majorUint && a == label && !seen:
			found, seen = c.byteString(), true
		case (m == majorUint || m == majorNint) && (m != majorUint || a != label):
			c.skip(0)
		default:
			c.fail()
		}
	}
	if !seen {
		c.fail()
	}
	return found
}

func (c *cursor) skip(depth int) {
	m, n := c.head()
	if depth > maxDepth {
		c.fail()
		return
	}
	switch m {
	case majorUint, majorNint:
	case majorBytes, majorText:
		c.take(n)
	case majorMap:
		n *= 2
		fallthrough
	case majorArray:
		if n > 2*maxItems {
			c.fail()
			return
		}
		for range n {
			c.skip(depth + 1)
		}
	case majorTag:
		c.skip(depth + 1)
	default:
		c.fail()
	}
}

func (c *cursor) end() {
	if len(c.b) > 0 {
		c.fail()
	}
}
