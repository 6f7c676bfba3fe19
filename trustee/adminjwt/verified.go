package adminjwt

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Claims gives the claims of a token (JSON), which nobody has verified: to look up whose
// keys to verify it with.
func Claims(token string) ([]byte, error) {
	if len(token) > MaxToken {
		return nil, errors.New("token: too long")
	}
	_, claims, _, _, err := split(token)
	return claims, err
}

// ErrNoKey says that none of the keys has signed a token.
var ErrNoKey = errors.New("token: no key of an identity provider has signed it")

// Verified gives the claims (JSON) of a token that one of the keys has signed, with an
// algorithm that fits the key.
func Verified(token string, keys []Key) ([]byte, error) {
	if len(token) > MaxToken {
		return nil, errors.New("token: too long")
	}
	h, claims, signed, sig, err := split(token)
	if err != nil {
		return nil, err
	}
	if p := (&Provider{Keys: keys}); !p.verifies(h, signed, sig) {
		return nil, ErrNoKey
	}
	return claims, nil
}

// UsableKeys reads a key set that an identity provider serves for everybody: keys for
// other uses and of kinds that are not taken here are left out. At least one is left.
func UsableKeys(b []byte) ([]Key, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, errors.New("key set is not JSON")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("key set has %d keys, at most %d", len(set.Keys), maxKeys)
	}
	var out []Key
	for _, raw := range set.Keys {
		var j jwk
		if json.Unmarshal(raw, &j) != nil {
			continue
		}
		if pub, err := j.public(); err == nil && usable(pub) == nil {
			out = append(out, Key{pub, j.Kid, j.Alg})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("key set has no key that can be used")
	}
	return out, nil
}
