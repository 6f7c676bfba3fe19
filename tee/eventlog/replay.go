package eventlog

import (
	"crypto/sha1" // a bank that logs have; nothing trusts it
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
)

// String gives the algorithm's usual name.
func (a Algorithm) String() string {
	switch a {
	case SHA1:
		return "SHA-1"
	case SHA256:
		return "SHA-256"
	case SHA384:
		return "SHA-384"
	case SHA512:
		return "SHA-512"
	case SM3:
		return "SM3"
	}
	return fmt.Sprintf("%#x", uint16(a))
}

func (a Algorithm) new() hash.Hash {
	switch a {
	case SHA1:
		return sha1.New()
	case SHA256:
		return sha256.New()
	case SHA384:
		return sha512.New384()
	case SHA512:
		return sha512.New()
	case SM3:
		return newSM3()
	}
	return nil
}

// Hash gives the digest of b, nil for an unknown algorithm.
func (a Algorithm) Hash(b []byte) []byte {
	h := a.new()
	if h == nil {
		return nil
	}
	h.Write(b)
	return h.Sum(nil)
}

// Replay gives the value of one register after all its events in one bank,
// starting from zeros. EV_NO_ACTION entries extend nothing.
func (l *Log) Replay(a Algorithm, register uint32) ([]byte, error) {
	h := a.new()
	if h == nil {
		return nil, fmt.Errorf("replaying event log: unknown algorithm %s", a)
	}
	v := make([]byte, sizes[a])
	for i := range l.Events {
		e := &l.Events[i]
		if e.Register != register || !e.extends() {
			continue
		}
		sum, ok := e.Sum(a)
		if !ok {
			return nil, fmt.Errorf("replaying event log: entry %d has no %s digest", i, a)
		}
		h.Reset()
		h.Write(v)
		h.Write(sum)
		v = h.Sum(v[:0])
	}
	return v, nil
}
