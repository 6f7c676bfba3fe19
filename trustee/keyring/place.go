package keyring

import (
	"context"
	"fmt"
	"slices"
)

// Places of keys that other packages keep under the envelope key.
const (
	PlaceBackup   = "backup"
	PlaceStoreMAC = "authentic/mac-key"
)

// PlaceOf gives the place of what this package keeps encrypted under a key of the store.
func PlaceOf(in, key string) (string, bool) { return in + "/" + key, in == bucket }

// Placed wraps and unwraps keys of the trustee's own at these places and at no
// other: it is no way to a secret, which is bound to a place of its own.
type Placed struct{ KEK KEK }

// Wrap seals a key for a place.
func (p Placed) Wrap(ctx context.Context, place string, key []byte) ([]byte, error) {
	if err := ownPlace(place); err != nil {
		return nil, err
	}
	return Encrypt(ctx, p.KEK, place, key)
}

// Unwrap opens a key of a place.
func (p Placed) Unwrap(ctx context.Context, place string, wrapped []byte) ([]byte, error) {
	if err := ownPlace(place); err != nil {
		return nil, err
	}
	return Decrypt(ctx, p.KEK, place, wrapped)
}

func ownPlace(place string) error {
	if !slices.Contains([]string{PlaceBackup, PlaceStoreMAC}, place) {
		return fmt.Errorf("keyring: %q is no place of a key", place)
	}
	return nil
}
