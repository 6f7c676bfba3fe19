package trusteeclient

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cofferproject/coffer/api/trusteeapi"
)

const maxConfig = 64 << 10

// StateDir gives the folder of the local trustee: $COFFER_STATE/trustee, or
// ~/.local/share/coffer/trustee.
func StateDir() (string, error) {
	if d := os.Getenv("COFFER_STATE"); d != "" {
		return filepath.Join(d, "trustee"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding the trustee's state: %w", err)
	}
	return filepath.Join(home, ".local", "share", "coffer", "trustee"), nil
}

// LoadConfig reads the client.json that coffer-trustee serve writes to its state
// folder; "" means StateDir.
func LoadConfig(dir string) (*trusteeapi.ClientConfig, error) {
	if dir == "" {
		var err error
		if dir, err = StateDir(); err != nil {
			return nil, err
		}
	}
	b, err := readBounded(filepath.Join(dir, "client.json"))
	if err != nil {
		return nil, fmt.Errorf("trustee configuration: %w", err)
	}
	c := new(trusteeapi.ClientConfig)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("trustee configuration: %w", err)
	}
	return c, nil
}

// DialConfig is Dial with what a client.json says.
func DialConfig(ctx context.Context, c *trusteeapi.ClientConfig) (*Client, error) {
	key, err := LoadAdminKey(c.AdminKeyPath)
	if err != nil {
		return nil, err
	}
	return Dial(ctx, c.URL, []byte(c.CAPEM), key)
}

// LoadAdminKey reads an Ed25519 key, PKCS #8 in PEM. A file that others than its
// owner can read is refused.
func LoadAdminKey(path string) (ed25519.PrivateKey, error) {
	b, err := readPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("admin key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("admin key: %s holds no PRIVATE KEY in PEM", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("admin key: %w", err)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("admin key: not an Ed25519 key")
	}
	return key, nil
}

// LoadBearer reads a bearer token that nobody else may read.
func LoadBearer(path string) (string, error) {
	b, err := readPrivate(path)
	if err != nil {
		return "", fmt.Errorf("bearer token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("bearer token: %s holds none, or more than one", path)
	}
	return token, nil
}

// readPrivate reads a file that nobody else may read.
func readPrivate(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o); chmod 600 it", path, st.Mode().Perm())
	}
	return readBounded(path)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxConfig {
		return nil, fmt.Errorf("%s: more than %d bytes", path, maxConfig)
	}
	return b, nil
}
