package session

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// attested is an attested session at rest.
type attested struct {
	Token   string `json:"token"`
	Expires int64  `json:"exp"`
}

// compact begins a session whose token lies as the bytes of its three parts, a
// quarter less than their base64: version, expiry, and each part behind its length.
// Sessions are most of what a busy trustee writes. JSON, which begins with a brace,
// is what others are, and those of before.
const compact = 1

const tokenParts = 3

func (a *attested) encode() ([]byte, error) {
	if b := a.compact(); b != nil {
		return b, nil
	}
	return json.Marshal(a)
}

// compact gives nil for a token that its parts would not give back as it is.
func (a *attested) compact() []byte {
	parts := strings.Split(a.Token, ".")
	if len(parts) != tokenParts {
		return nil
	}
	out := make([]byte, 0, len(a.Token))
	out = binary.BigEndian.AppendUint64(append(out, compact), uint64(a.Expires))
	for _, p := range parts {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(p)
		if err != nil || strings.ContainsAny(p, "\r\n") { // the decoder skips these
			return nil
		}
		out = append(binary.AppendUvarint(out, uint64(len(raw))), raw...)
	}
	return out
}

func decodeAttested(b []byte) (*attested, error) {
	a := new(attested)
	if len(b) == 0 || b[0] != compact {
		if err := json.Unmarshal(b, a); err != nil {
			return nil, fmt.Errorf("session at rest: %w", err)
		}
		return a, nil
	}
	bad := errors.New("session at rest is malformed")
	if len(b) < 9 {
		return nil, bad
	}
	a.Expires = int64(binary.BigEndian.Uint64(b[1:]))
	b = b[9:]
	var parts [tokenParts]string
	for i := range parts {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return nil, bad
		}
		parts[i], b = base64.RawURLEncoding.EncodeToString(b[size:size+int(n)]), b[size+int(n):]
	}
	if len(b) > 0 {
		return nil, bad
	}
	a.Token = strings.Join(parts[:], ".")
	return a, nil
}
