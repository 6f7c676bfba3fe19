package keyring

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// FileKEK is a key encryption key in a file of 32 bytes, readable by its owner
// alone.
type FileKEK struct {
	key [keySize]byte
	id  string
}

// OpenFileKEK reads the file.
func OpenFileKEK(path string) (*FileKEK, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("envelope key: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("envelope key: %s can be read by others (mode %04o)", path, st.Mode().Perm())
	}
	if st.Size() != keySize {
		return nil, fmt.Errorf("envelope key: %s has %d bytes, not %d", path, st.Size(), keySize)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("envelope key: %w", err)
	}
	defer clear(b)
	if len(b) != keySize {
		return nil, fmt.Errorf("envelope key: %s changed while it was read", path)
	}
	return newFileKEK(b)
}

func newFileKEK(b []byte) (*FileKEK, error) {
	if len(b) != keySize {
		return nil, fmt.Errorf("a key of %d bytes, not %d", len(b), keySize)
	}
	k := &FileKEK{}
	copy(k.key[:], b)
	sum := sha256.Sum256(append([]byte("coffer envelope key id 1\x00"), b...))
	k.id = "file:" + hex.EncodeToString(sum[:8])
	return k, nil
}

// CreateFileKEK makes the file if it does not exist and opens it.
func CreateFileKEK(path string) (*FileKEK, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		key := make([]byte, keySize)
		defer clear(key)
		rand.Read(key)
		if err := WriteFile(path, key, 0o600); err != nil {
			return nil, fmt.Errorf("envelope key: %w", err)
		}
	}
	return OpenFileKEK(path)
}

// ID implements KEK.
func (k *FileKEK) ID() string { return k.id }

// Wrap implements KEK.
func (k *FileKEK) Wrap(_ context.Context, dataKey, aad []byte) ([]byte, error) {
	return gcmSeal(k.key[:], dataKey, aad)
}

// Unwrap implements KEK.
func (k *FileKEK) Unwrap(_ context.Context, wrapped, aad []byte) ([]byte, error) {
	return gcmOpen(k.key[:], wrapped, aad)
}

// WriteFile replaces a file atomically and durably: after a crash it has the
// old content or the new one.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes the entries of a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
