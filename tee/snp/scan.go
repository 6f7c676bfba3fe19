package snp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// scanner reads the JSON that the published codec writes: objects with the
// members of a table, in any order and each once; arrays of bytes; plain
// unsigned integers. encoding/json would take other spellings of a name, a name
// twice, and arrays of another length.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n':
			s.i++
		default:
			return
		}
	}
}

func (s *scanner) errorf(format string, a ...any) error {
	return fmt.Errorf("at byte %d: %w", s.i, fmt.Errorf(format, a...))
}

// next skips blanks and gives the next byte without taking it; 0 at the end.
func (s *scanner) next() byte {
	s.space()
	if s.i == len(s.b) {
		return 0
	}
	return s.b[s.i]
}

func (s *scanner) take(c byte) error {
	if s.next() != c {
		return s.errorf("%q expected", string(c))
	}
	s.i++
	return nil
}

// null takes a null, if one is next.
func (s *scanner) null() bool {
	if s.next() == 'n' && len(s.b)-s.i >= 4 && string(s.b[s.i:s.i+4]) == "null" {
		s.i += 4
		return true
	}
	return false
}

// name takes a plain string: no escapes.
func (s *scanner) name() (string, error) {
	if err := s.take('"'); err != nil {
		return "", err
	}
	for j := s.i; j < len(s.b) && j-s.i <= 64; j++ {
		switch c := s.b[j]; {
		case c == '"':
			n := string(s.b[s.i:j])
			s.i = j + 1
			return n, nil
		case c < 0x20 || c == '\\' || c >= 0x7F:
			return "", s.errorf("a plain name expected")
		}
	}
	return "", s.errorf("name without end")
}

// text takes any string of at most limit bytes.
func (s *scanner) text(limit int) (string, error) {
	if s.next() != '"' {
		return "", s.errorf("a string expected")
	}
	for j := s.i + 1; j < len(s.b) && j-s.i <= 6*limit+2; j++ {
		switch s.b[j] {
		case '\\':
			j++
		case '"':
			var v string
			if err := json.Unmarshal(s.b[s.i:j+1], &v); err != nil {
				return "", s.errorf("%w", err)
			}
			if len(v) > limit {
				return "", s.errorf("string of %d bytes, at most %d", len(v), limit)
			}
			s.i = j + 1
			return v, nil
		}
	}
	return "", s.errorf("string without end, or too long")
}

func (s *scanner) uint(limit uint64) (uint64, error) {
	s.space()
	start := s.i
	var v uint64
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		d := uint64(s.b[s.i] - '0')
		if v > (limit-d)/10 {
			return 0, s.errorf("number above %d", limit)
		}
		v = v*10 + d
		s.i++
	}
	if n := s.i - start; n == 0 || n > 1 && s.b[start] == '0' {
		return 0, s.errorf("an unsigned integer expected")
	}
	return v, nil
}

// list takes an array, calling item for each of its items.
func (s *scanner) list(item func(i int) error) error {
	if err := s.take('['); err != nil {
		return err
	}
	if s.next() == ']' {
		s.i++
		return nil
	}
	for i := 0; ; i++ {
		if err := item(i); err != nil {
			return err
		}
		switch s.next() {
		case ',':
			s.i++
		case ']':
			s.i++
			return nil
		default:
			return s.errorf("',' or ']' expected")
		}
	}
}

// octets takes an array of plain numbers from 0 to 255 and appends them to dst, at
// most limit of them. Evidence consists of little else, so it is read in one loop.
func (s *scanner) octets(dst []byte, limit int) ([]byte, error) {
	if err := s.take('['); err != nil {
		return dst, err
	}
	if s.next() == ']' {
		s.i++
		return dst, nil
	}
	most := len(dst) + limit
	for {
		dst = s.dense(dst, most)
		if len(dst) == most {
			return dst, s.errorf("more than %d bytes", limit)
		}
		v, err := s.octet()
		if err != nil {
			return dst, err
		}
		dst = append(dst, v)
		switch s.next() {
		case ',':
			s.i++
		case ']':
			s.i++
			return dst, nil
		default:
			return dst, s.errorf("',' or ']' expected")
		}
	}
}

// dense takes numbers from 0 to 255 that a comma follows at once, until dst has most
// bytes or something else comes.
func (s *scanner) dense(dst []byte, most int) []byte {
	b, i := s.b, s.i
	for len(dst) < most && i+3 < len(b) {
		v := b[i] - '0'
		if v > 9 {
			break
		}
		n := 1
		if c := b[i+1]; c != ',' {
			c -= '0'
			if c > 9 || v == 0 {
				break
			}
			v, n = 10*v+c, 2
			if c := b[i+2]; c != ',' {
				c -= '0'
				if c > 9 || v > 25 || v == 25 && c > 5 || b[i+3] != ',' {
					break
				}
				v, n = 10*v+c, 3
			}
		}
		dst = append(dst, v)
		i += n + 1
	}
	s.i = i
	return dst
}

// octet takes a number from 0 to 255.
func (s *scanner) octet() (byte, error) {
	if s.i < len(s.b) && s.b[s.i]-'0' > 9 {
		s.space()
	}
	b, i, v := s.b, s.i, uint(0)
	for i < len(b) && b[i]-'0' <= 9 {
		if v = v*10 + uint(b[i]-'0'); v > 255 {
			return 0, s.errorf("number above 255")
		}
		i++
	}
	n, start := i-s.i, s.i
	s.i = i
	if n == 0 || n > 1 && b[start] == '0' {
		return 0, s.errorf("an unsigned integer expected")
	}
	return byte(v), nil
}

// fixed takes an array of exactly len(dst) bytes.
func (s *scanner) fixed(dst []byte) error {
	got, err := s.octets(dst[:0], len(dst))
	if err == nil && len(got) != len(dst) {
		err = s.errorf("%d bytes, not %d", len(got), len(dst))
	}
	return err
}

// bytes takes an array of at most limit bytes.
func (s *scanner) bytes(limit int) ([]byte, error) {
	end := bytes.IndexByte(s.b[s.i:], ']')
	return s.octets(make([]byte, 0, max(0, min(limit, end/2+1))), limit)
}

// member is one member of an object. An optional one may be left out.
type member struct {
	name     string
	optional bool
	read     func() error
}

// object takes an object of exactly these members; seen has a bit for each that
// was there.
func (s *scanner) object(members []member) (seen uint64, err error) {
	if err := s.take('{'); err != nil {
		return 0, err
	}
	for first := true; ; first = false {
		if s.next() == '}' && first {
			s.i++
			break
		}
		name, err := s.name()
		if err != nil {
			return 0, err
		}
		if err := s.take(':'); err != nil {
			return 0, err
		}
		k := -1
		for i := range members {
			if members[i].name == name {
				k = i
				break
			}
		}
		switch {
		case k < 0:
			return 0, s.errorf("unknown member %q", name)
		case seen>>k&1 != 0:
			return 0, s.errorf("member %q comes twice", name)
		}
		seen |= 1 << k
		if err := members[k].read(); err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		if c := s.next(); c == ',' {
			s.i++
			continue
		} else if c != '}' {
			return 0, s.errorf("',' or '}' expected")
		}
		s.i++
		break
	}
	for i, m := range members {
		if !m.optional && seen>>i&1 == 0 {
			return 0, fmt.Errorf("%s: missing", m.name)
		}
	}
	return seen, nil
}

// end demands that nothing follows.
func (s *scanner) end() error {
	if s.next(); s.i != len(s.b) {
		return errors.New("data after the document")
	}
	return nil
}
