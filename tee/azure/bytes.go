package azure

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ints is a byte string that JSON carries as an array of numbers.
type ints []byte

// MarshalJSON implements json.Marshaler.
func (v ints) MarshalJSON() ([]byte, error) {
	b := append(make([]byte, 0, 4*len(v)+2), '[')
	for i, x := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(x), 10)
	}
	return append(b, ']'), nil
}

// UnmarshalJSON implements json.Unmarshaler. The decoder has seen to it that b
// is JSON.
func (v *ints) UnmarshalJSON(b []byte) error {
	s := strings.TrimSpace(string(b))
	if !strings.HasPrefix(s, "[") || !strings.HasSuffix(s, "]") {
		return errors.New("not an array of numbers")
	}
	s = strings.TrimSpace(s[1 : len(s)-1])
	*v = ints{}
	if s == "" {
		return nil
	}
	*v = make(ints, 0, strings.Count(s, ",")+1)
	for f := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(f), 10, 8)
		if err != nil {
			return errors.New("not an array of numbers from 0 to 255")
		}
		*v = append(*v, byte(n))
	}
	return nil
}

// hexBytes is a byte string that JSON carries as lower-case hex; upper case is
// read too.
type hexBytes []byte

// MarshalText implements encoding.TextMarshaler.
func (v hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(v)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *hexBytes) UnmarshalText(b []byte) error {
	d, err := hex.AppendDecode(nil, b)
	if err != nil {
		return errors.New("not hex")
	}
	*v = d
	return nil
}

// b64url is a byte string that JSON carries as base64url, written with padding
// and read with or without.
type b64url []byte

// MarshalText implements encoding.TextMarshaler.
func (v b64url) MarshalText() ([]byte, error) {
	return []byte(base64.URLEncoding.EncodeToString(v)), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *b64url) UnmarshalText(b []byte) error {
	if bytes.ContainsAny(b, "\r\n") { // which the decoder would skip
		return errors.New("not base64url")
	}
	enc := base64.RawURLEncoding
	if bytes.HasSuffix(b, []byte("=")) {
		enc = base64.URLEncoding
	}
	d, err := enc.Strict().AppendDecode(nil, b)
	if err != nil {
		return fmt.Errorf("not base64url: %w", err)
	}
	*v = d
	return nil
}

var (
	_ json.Marshaler   = ints(nil)
	_ json.Unmarshaler = (*ints)(nil)
)
