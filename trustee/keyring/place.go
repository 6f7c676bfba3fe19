package keyring

import "context"

// Placed wraps keys for a place, for packages that keep keys of their own in the
// store (package authentic).
type Placed struct{ KEK KEK }

// Wrap is Encrypt.
func (p Placed) Wrap(ctx context.Context, place string, key []byte) ([]byte, error) {
	return Encrypt(ctx, p.KEK, place, key)
}

// Unwrap is Decrypt.
func (p Placed) Unwrap(ctx context.Context, place string, wrapped []byte) ([]byte, error) {
	return Decrypt(ctx, p.KEK, place, wrapped)
}
