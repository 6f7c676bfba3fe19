package keyring

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/cofferproject/coffer/trustee/keyservice"
)

// A wrapped envelope key is a file too, which says nothing to who has not the key
// service that wrapped it: it may lie anywhere.
type wrappedKey struct {
	Version int    `json:"version"`
	KEK     string `json:"kek"`
	Service string `json:"service"`
	Wrapped []byte `json:"wrapped"`
}

const (
	wrappedVersion = 1
	maxWrappedFile = 128 << 10
	// serviceWait bounds a key service, which is asked at the start alone.
	serviceWait = 30 * time.Second
)

func wrappedAAD(id string) []byte { return []byte("coffer envelope key 1\x00" + id) }

// OpenKEK reads an envelope key from its file. service unwraps it; nil: the file is the
// key. A file that is the other is refused, so that nobody believes a key to be kept by
// a service that is not.
func OpenKEK(ctx context.Context, path string, service keyservice.Service) (*FileKEK, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("envelope key: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxWrappedFile+1))
	if err != nil {
		return nil, fmt.Errorf("envelope key: %w", err)
	}
	defer clear(b)
	var w wrappedKey
	wrapped := len(b) != keySize && json.Unmarshal(b, &w) == nil && w.Version != 0
	switch {
	case !wrapped && service == nil:
		return OpenFileKEK(path)
	case !wrapped:
		return nil, fmt.Errorf("envelope key: %s is not wrapped by a key service: leave --key-service out, or wrap it (coffer-trustee wrap-envelope-key)", path)
	case w.Version != wrappedVersion || len(b) > maxWrappedFile:
		return nil, fmt.Errorf("envelope key: %s is wrapped in a form that this version does not know", path)
	case service == nil:
		return nil, fmt.Errorf("envelope key: %s is wrapped by %.200q: name that service with --key-service", path, w.Service)
	case service.ID() != w.Service:
		return nil, fmt.Errorf("envelope key: %s is wrapped by %.200q, and --key-service is %q", path, w.Service, service.ID())
	}
	ctx, cancel := context.WithTimeout(ctx, serviceWait)
	defer cancel()
	key, err := service.Unwrap(ctx, w.Wrapped, wrappedAAD(w.KEK))
	if err != nil {
		return nil, fmt.Errorf("envelope key: %s does not unwrap %s: %w", service.ID(), path, err)
	}
	defer clear(key)
	k, err := newFileKEK(key)
	if err != nil {
		return nil, fmt.Errorf("envelope key: %s: %w", path, err)
	}
	if k.id != w.KEK {
		return nil, fmt.Errorf("envelope key: %s unwraps to key %s, not %.40q", path, k.id, w.KEK)
	}
	return k, nil
}

// WriteWrapped writes a key as service wraps it to a file that is not there yet. What
// was written is unwrapped once before it counts.
func WriteWrapped(ctx context.Context, path string, k *FileKEK, service keyservice.Service) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("envelope key: %s is there already", path)
	}
	ctx, cancel := context.WithTimeout(ctx, serviceWait)
	defer cancel()
	w := wrappedKey{Version: wrappedVersion, KEK: k.id, Service: service.ID()}
	var err error
	if w.Wrapped, err = service.Wrap(ctx, k.key[:], wrappedAAD(k.id)); err != nil {
		return fmt.Errorf("envelope key: %s does not wrap it: %w", service.ID(), err)
	}
	b, err := json.MarshalIndent(w, "", "  ")
	if err != nil {
		return fmt.Errorf("envelope key: %w", err)
	}
	tmp := path + ".unproven"
	if err := WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("envelope key: %w", err)
	}
	defer os.Remove(tmp) // gone already if all went well
	if _, err := OpenKEK(ctx, tmp, service); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// CreateWrapped makes a key that is nowhere but in a file as service wraps it.
func CreateWrapped(ctx context.Context, path string, service keyservice.Service) (*FileKEK, error) {
	key := make([]byte, keySize)
	defer clear(key)
	rand.Read(key)
	k, err := newFileKEK(key)
	if err != nil {
		return nil, err
	}
	return k, WriteWrapped(ctx, path, k, service)
}
