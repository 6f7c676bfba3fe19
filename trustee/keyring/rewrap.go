package keyring

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
)

// Both is a key that is in force and one of before, whose values are read still.
type Both struct {
	KEK
	Old KEK
}

// named gives the key of an id, nil if it is neither.
func (b Both) named(id string) KEK {
	for _, k := range []KEK{b.KEK, b.Old} {
		if k.ID() == id {
			return k
		}
	}
	return nil
}

// choose gives the key that a value names, of those that are at hand.
func choose(kek KEK, id, place string) (KEK, error) {
	if b, ok := kek.(Both); ok {
		if k := b.named(id); k != nil {
			return k, nil
		}
	}
	if id != kek.ID() {
		return nil, fmt.Errorf("decrypting %s: encrypted under key %.40q, and the envelope key is %q", place, id, kek.ID())
	}
	return kek, nil
}

// sealedPrefix begins every value that Encrypt has given.
var sealedPrefix = []byte(`{"kek":`)

// SealedUnder gives the id of the key under which a value is encrypted; false if it is
// not.
func SealedUnder(value []byte) (id string, ok bool) {
	if !bytes.HasPrefix(value, sealedPrefix) {
		return "", false
	}
	var s sealed
	if err := json.Unmarshal(value, &s); err != nil || s.KEK == "" || len(s.Key) == 0 {
		return "", false
	}
	return s.KEK, true
}

// Rewrap gives a value of a place with its data key wrapped under another key. What it
// holds is not decrypted.
func Rewrap(ctx context.Context, from, to KEK, place string, value []byte) ([]byte, error) {
	var s sealed
	if err := json.Unmarshal(value, &s); err != nil {
		return nil, fmt.Errorf("rewrapping %s: %w", place, err)
	}
	k, err := choose(from, s.KEK, place)
	if err != nil {
		return nil, err
	}
	dk, err := k.Unwrap(ctx, s.Key, []byte(place))
	if err != nil {
		return nil, fmt.Errorf("rewrapping %s: %w", place, err)
	}
	defer clear(dk)
	if s.Key, err = to.Wrap(ctx, dk, []byte(place)); err != nil {
		return nil, fmt.Errorf("rewrapping %s: %w", place, err)
	}
	s.KEK = to.ID()
	return json.Marshal(s)
}
