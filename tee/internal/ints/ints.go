// Package ints is the JSON form that several published evidence formats give to
// bytes: an array of integers from 0 to 255.
//
// Invariants: bounded by the input's own size (a byte takes at least two
// characters); anything but plain decimal integers in range is an error.
//
// Trust zone: guest and trustee.
package ints

import (
	"errors"
	"strconv"
)

// Bytes is a byte string; in JSON an array of integers.
type Bytes []byte

var errForm = errors.New("not an array of integers from 0 to 255")

// MarshalJSON gives the array without spaces; nil is the empty array.
func (b Bytes) MarshalJSON() ([]byte, error) {
	out := make([]byte, 0, 4*len(b)+2)
	out = append(out, '[')
	for i, v := range b {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendUint(out, uint64(v), 10)
	}
	return append(out, ']'), nil
}

// UnmarshalJSON takes an array of integers; null is an error.
func (b *Bytes) UnmarshalJSON(in []byte) error {
	s := scanner{in}
	if !s.next('[') {
		return errForm
	}
	if s.next(']') {
		*b = Bytes{}
		return s.end()
	}
	out := make(Bytes, 0, len(in)/2)
	for {
		v, ok := s.number()
		if !ok {
			return errForm
		}
		out = append(out, v)
		if s.next(',') {
			continue
		}
		if !s.next(']') {
			return errForm
		}
		*b = out
		return s.end()
	}
}

// Fixed checks the length that a field must have.
func (b Bytes) Fixed(n int) error {
	if len(b) != n {
		return errors.New(strconv.Itoa(len(b)) + " bytes, not " + strconv.Itoa(n))
	}
	return nil
}

type scanner struct{ b []byte }

func (s *scanner) space() {
	for len(s.b) > 0 && (s.b[0] == ' ' || s.b[0] == '\t' || s.b[0] == '\n' || s.b[0] == '\r') {
		s.b = s.b[1:]
	}
}

func (s *scanner) next(c byte) bool {
	s.space()
	if len(s.b) == 0 || s.b[0] != c {
		return false
	}
	s.b = s.b[1:]
	return true
}

func (s *scanner) number() (byte, bool) {
	s.space()
	v, n := 0, 0
	for n < len(s.b) && n < 4 && s.b[n] >= '0' && s.b[n] <= '9' {
		v = v*10 + int(s.b[n]-'0')
		n++
	}
	if n == 0 || v > 255 || n > 1 && s.b[0] == '0' {
		return 0, false
	}
	s.b = s.b[n:]
	return byte(v), true
}

func (s *scanner) end() error {
	if s.space(); len(s.b) > 0 {
		return errForm
	}
	return nil
}
