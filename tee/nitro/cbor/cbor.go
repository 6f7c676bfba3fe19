// Package cbor reads and writes the little of CBOR (RFC 8949) that AWS Nitro
// speaks: integers, byte and text strings, arrays, maps, booleans and null, of
// definite length, in the shortest form.
//
// Invariants: bounded in size, depth and count, no memory for what is not there,
// never panics; two members of one map with the same key are an error.
//
// Trust zone: guest, trustee and owner.
package cbor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Limits of a document.
const (
	MaxSize  = 64 << 10 // bytes
	maxDepth = 8
	maxItems = 1024
)

// Tag is a tagged value.
type Tag struct {
	Number uint64
	Value  any
}

// Map keeps a map's members in their order. Keys are uint64, int64 or string.
type Map []Member

// Member is one member of a map.
type Member struct{ Key, Value any }

// Get gives the value of a key.
func (m Map) Get(key any) (any, bool) {
	for _, x := range m {
		if x.Key == key {
			return x.Value, true
		}
	}
	return nil, false
}

// Decode reads one value that b consists of: uint64, int64 (negative), []byte,
// string, []any, Map, bool, nil or Tag. Byte strings are parts of b.
func Decode(b []byte) (any, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("cbor: %d bytes, at most %d", len(b), MaxSize)
	}
	d := decoder{b: b}
	v, err := d.value(0)
	if err != nil {
		return nil, fmt.Errorf("cbor: at %d: %w", d.off, err)
	}
	if d.off != len(b) {
		return nil, fmt.Errorf("cbor: %d bytes after the value", len(b)-d.off)
	}
	return v, nil
}

type decoder struct {
	b     []byte
	off   int
	items int
}

// Major types.
const (
	majorUint = iota
	majorNegative
	majorBytes
	majorText
	majorArray
	majorMap
	majorTag
	majorSimple
)

func (d *decoder) head() (major byte, n uint64, err error) {
	if d.off >= len(d.b) {
		return 0, 0, errors.New("it ends too early")
	}
	c := d.b[d.off]
	d.off++
	major, info := c>>5, c&31
	if info < 24 {
		return major, uint64(info), nil
	}
	if info > 27 {
		return 0, 0, errors.New("a length that is not definite")
	}
	size := 1 << (info - 24)
	if len(d.b)-d.off < size {
		return 0, 0, errors.New("it ends too early")
	}
	for _, x := range d.b[d.off : d.off+size] {
		n = n<<8 | uint64(x)
	}
	d.off += size
	if least := [...]uint64{24, 1 << 8, 1 << 16, 1 << 32}[info-24]; n < least {
		return 0, 0, errors.New("a number that is not in its shortest form")
	}
	return major, n, nil
}

func (d *decoder) value(depth int) (any, error) {
	if d.items++; d.items > maxItems || depth > maxDepth {
		return nil, errors.New("too many values, or nested too deeply")
	}
	major, n, err := d.head()
	if err != nil {
		return nil, err
	}
	switch major {
	case majorUint:
		return n, nil
	case majorNegative:
		if n > 1<<63-1 {
			return nil, errors.New("a number out of range")
		}
		return -1 - int64(n), nil
	case majorBytes, majorText:
		if n > uint64(len(d.b)-d.off) {
			return nil, errors.New("it ends too early")
		}
		s := d.b[d.off : d.off+int(n) : d.off+int(n)]
		d.off += int(n)
		if major == majorBytes {
			return s, nil
		}
		if !utf8.Valid(s) {
			return nil, errors.New("a text that is not UTF-8")
		}
		return string(s), nil
	case majorArray:
		out := []any{}
		for ; n > 0; n-- {
			v, err := d.value(depth + 1)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, nil
	case majorMap:
		return d.members(n, depth)
	case majorTag:
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		return Tag{n, v}, nil
	}
	switch n {
	case 20, 21:
		return n == 21, nil
	case 22:
		return nil, nil
	}
	return nil, fmt.Errorf("simple value or float %d", n)
}

func (d *decoder) members(n uint64, depth int) (Map, error) {
	out := Map{}
	for ; n > 0; n-- {
		k, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		switch k.(type) {
		case uint64, int64, string:
		default:
			return nil, errors.New("a key that is neither number nor text")
		}
		if _, dup := out.Get(k); dup {
			return nil, fmt.Errorf("member %v comes twice", k)
		}
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, Member{k, v})
	}
	return out, nil
}

// Encode writes a value of the types that Decode gives, and int.
func Encode(v any) ([]byte, error) { return appendValue(nil, v) }

func appendValue(b []byte, v any) ([]byte, error) {
	var err error
	switch v := v.(type) {
	case nil:
		return append(b, majorSimple<<5|22), nil
	case bool:
		if v {
			return append(b, majorSimple<<5|21), nil
		}
		return append(b, majorSimple<<5|20), nil
	case int:
		return appendValue(b, int64(v))
	case int64:
		if v < 0 {
			return appendHead(b, majorNegative, uint64(-1-v)), nil
		}
		return appendHead(b, majorUint, uint64(v)), nil
	case uint64:
		return appendHead(b, majorUint, v), nil
	case []byte:
		return append(appendHead(b, majorBytes, uint64(len(v))), v...), nil
	case string:
		return append(appendHead(b, majorText, uint64(len(v))), v...), nil
	case []any:
		b = appendHead(b, majorArray, uint64(len(v)))
		for _, x := range v {
			if b, err = appendValue(b, x); err != nil {
				return nil, err
			}
		}
		return b, nil
	case Map:
		b = appendHead(b, majorMap, uint64(len(v)))
		for _, m := range v {
			if b, err = appendValue(b, m.Key); err != nil {
				return nil, err
			}
			if b, err = appendValue(b, m.Value); err != nil {
				return nil, err
			}
		}
		return b, nil
	case Tag:
		return appendValue(appendHead(b, majorTag, v.Number), v.Value)
	}
	return nil, fmt.Errorf("cbor: a value of type %T", v)
}

func appendHead(b []byte, major byte, n uint64) []byte {
	switch major <<= 5; {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}
