package image

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/cofferproject/coffer/api/resource"
)

// KEKSize is the size of a key encryption key, in bytes.
const KEKSize = 32

// Keys gives key encryption keys by their ids (kbs:///repository/type/tag).
type Keys interface {
	KEK(id string) ([]byte, error)
}

// FileKey is one key in one file, for one id or, if ID is "", for any.
type FileKey struct {
	ID   string
	File string
}

// KEK reads the file.
func (k FileKey) KEK(id string) ([]byte, error) {
	if k.ID != "" && !sameKey(k.ID, id) {
		return nil, fmt.Errorf("the layer is encrypted for key %s, not for %s", id, k.ID)
	}
	return ReadKey(k.File)
}

// DirKeys are keys in a folder that is laid out as the trustee's resources:
// DIR/repository/type/tag.
type DirKeys string

// KEK reads the key's file.
func (d DirKeys) KEK(id string) ([]byte, error) {
	u, err := keyURI(id)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	defer root.Close()
	f, err := root.Open(path.Join(u.Path...))
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", id, err)
	}
	return readKey(f, id)
}

// ReadKey reads a key file: exactly 32 bytes.
func ReadKey(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return readKey(f, name)
}

func readKey(f *os.File, what string) ([]byte, error) {
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", what, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("key %s: not a file", what)
	}
	b, err := io.ReadAll(io.LimitReader(f, KEKSize+1))
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", what, err)
	}
	if len(b) != KEKSize {
		return nil, fmt.Errorf("key %s has %d bytes, expected exactly %d", what, st.Size(), KEKSize)
	}
	return b, nil
}

// MakeKey reads a key file or, where there is none, makes one that only its
// owner can read.
func MakeKey(name string) (kek []byte, made bool, err error) {
	if kek, err = ReadKey(name); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return kek, false, err
	}
	kek = make([]byte, KEKSize)
	if _, err := rand.Read(kek); err != nil {
		return nil, false, fmt.Errorf("making a key: %w", err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("making a key: %w", err)
	}
	if _, err = f.Write(kek); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, false, fmt.Errorf("making a key: %w", errors.Join(err, os.Remove(name)))
	}
	return kek, true, nil
}

// keyURI checks a key's id.
func keyURI(id string) (*resource.URI, error) {
	u, err := resource.Parse(id)
	if err != nil {
		return nil, fmt.Errorf("key id: %w", err)
	}
	if u.Plugin != resource.PluginResource || u.Query != "" || len(u.Path) != 3 {
		return nil, fmt.Errorf("key id %s: expected kbs:///repository/type/tag", id)
	}
	return u, nil
}

// sameKey compares ids without their host part, which decides nothing.
func sameKey(a, b string) bool {
	ua, erra := keyURI(a)
	ub, errb := keyURI(b)
	return erra == nil && errb == nil && strings.Join(ua.Path, "/") == strings.Join(ub.Path, "/")
}
