package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cofferproject/coffer/trustee/credential"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/store"
)

// firstAdmin makes the administrator's credential at the first start and gives
// the path of its key. The file comes before its registration: a crash between
// leaves a key that the next start registers. Where Config.FirstAdmin says whose key
// it is, nothing is made.
func firstAdmin(ctx context.Context, s store.Store, c *Config) (string, error) {
	now := c.Now()
	if c.FirstAdmin != "" {
		pub, err := readPublicKey(c.FirstAdmin)
		if err == nil {
			_, err = credential.RegisterFirst(ctx, s, pub, now)
		}
		if err != nil {
			return "", fmt.Errorf("first administrator: %w", err)
		}
		return "", nil
	}
	path, err := filepath.Abs(filepath.Join(c.State, "admin.key"))
	if err != nil {
		return "", err
	}
	has, err := credential.Any(ctx, s)
	if err != nil || has {
		return path, err
	}
	key, err := readAdminKey(path)
	made := errors.Is(err, fs.ErrNotExist)
	if made {
		key, err = makeAdminKey(path)
	}
	if err != nil {
		return "", fmt.Errorf("admin credential: %w", err)
	}
	first, err := credential.RegisterFirst(ctx, s, key.Public(), now)
	if err == nil && !first && made {
		// Another replica was faster: this key, made a moment ago, is nobody's.
		err = os.Remove(path)
	}
	return path, err
}

func makeAdminKey(path string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, keyring.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// readPublicKey reads an Ed25519 key from PEM.
func readPublicKey(path string) (ed25519.PublicKey, error) {
	b, err := readBounded(path, maxPEM)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("%s holds no PUBLIC KEY in PEM", path)
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	pub, ok := k.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%s: not an Ed25519 key", path)
	}
	return pub, nil
}

func readAdminKey(path string) (ed25519.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is not an Ed25519 key", path)
	}
	return key, nil
}

// writeClientConfig tells tools on this machine where the server is.
func (s *Server) writeClientConfig() error {
	b, err := json.MarshalIndent(s.Client(), "", "  ")
	if err != nil {
		return err
	}
	return keyring.WriteFile(filepath.Join(s.cfg.State, "client.json"), append(b, '\n'), 0o600)
}
