package launch

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

// MaxFile is the largest file that is measured in memory, in bytes.
const MaxFile = 1 << 30

// Read gives the file's content, for whoever measures it: not empty, at most limit
// bytes, and of the digest that the spec names, if it names one.
func (f File) Read(limit int64) ([]byte, error) {
	r, err := os.Open(f.Path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if len(b) == 0 || int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: empty, or longer than %d bytes", f.Path, limit)
	}
	sum := sha256.Sum256(b)
	return b, f.CheckDigest(sum)
}

// CheckDigest holds a SHA-256 against the one that the spec names, if it names one.
func (f File) CheckDigest(sum [sha256.Size]byte) error {
	if got := hex.EncodeToString(sum[:]); f.SHA256 != "" && f.SHA256 != got {
		return fmt.Errorf("%s has SHA-256 %s, not %s", f.Path, got, f.SHA256)
	}
	return nil
}
