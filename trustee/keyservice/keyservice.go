// Package keyservice says what wraps the trustee's key-encryption keys: a key
// file, a hardware security module, or a key service of a cloud.
//
// Trust zone: trustee.
package keyservice

import "context"

// Service wraps keys of 16 to 64 bytes under a key that does not leave it.
type Service interface {
	// ID names the wrapping key for ever: kind and key, no credential. A wrapped
	// key is stored with it.
	ID() string
	// Wrap gives the wrapped key, at most 64 KiB. The additional data, at most
	// 4 KiB, must be the same to unwrap.
	Wrap(ctx context.Context, key, aad []byte) ([]byte, error)
	// Unwrap gives the key back. It fails for another's wrapped key, changed bytes
	// or other additional data.
	Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error)
}
