package nebulaca

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cofferproject/coffer/trustee/keyring"
)

const maxFile = 64 << 10 // bytes

// readFolder reads the authority that the published plugin keeps in its working folder;
// nil: there is none. Half of one is an error.
func readFolder(folder string) (*keyring.Authority, error) {
	crt, err := readFile(filepath.Join(folder, "ca", "ca.crt"))
	key, kerr := readFile(filepath.Join(folder, "ca", "ca.key"))
	if errors.Is(err, fs.ErrNotExist) && errors.Is(kerr, fs.ErrNotExist) {
		return nil, nil
	}
	if err := errors.Join(err, kerr); err != nil {
		return nil, fmt.Errorf("authority to take over: %w", err)
	}
	return &keyring.Authority{Cert: crt, Key: key}, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", path, maxFile)
	}
	return b, err
}
