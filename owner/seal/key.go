package seal

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// KeyFile is the owner's key in the state folder.
const KeyFile = "owner.key"

const maxKeyFile = 16 << 10

// StateDir gives the owner's state folder: $COFFER_STATE, or ~/.local/share/coffer.
func StateDir() (string, error) {
	if d := os.Getenv("COFFER_STATE"); d != "" {
		return d, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding the state folder: %w", err)
	}
	return filepath.Join(home, ".local", "share", "coffer"), nil
}

// OwnerKey loads the owner's key from dir, and makes it (Ed25519) on first use;
// made tells. "" means StateDir.
func OwnerKey(dir string) (key crypto.Signer, made bool, err error) {
	if dir == "" {
		if dir, err = StateDir(); err != nil {
			return nil, false, err
		}
	}
	path := filepath.Join(dir, KeyFile)
	key, err = loadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	if err := makeKey(dir, path); err != nil {
		return nil, false, fmt.Errorf("making the owner's key: %w", err)
	}
	key, err = loadKey(path)
	return key, err == nil, err
}

// makeKey writes a new key completely before it has its name; if another
// process is faster, its key stays.
func makeKey(dir, path string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".owner-key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// loadKey reads an Ed25519 or ECDSA P-256 key, PKCS #8 in PEM.
func loadKey(path string) (crypto.Signer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("owner's key: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("owner's key: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("owner's key: %s can be read by others (mode %04o): chmod 600 it, or make a new one if it was read", path, st.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("owner's key: %w", err)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 || len(b) > maxKeyFile {
		return nil, fmt.Errorf("owner's key: %s holds no PRIVATE KEY in PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("owner's key: %s: not PKCS #8", path) // the parser's error could quote the key
	}
	switch k := parsed.(type) {
	case ed25519.PrivateKey:
		return k, nil
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P256() {
			return k, nil
		}
	}
	return nil, fmt.Errorf("owner's key: %s is neither Ed25519 nor ECDSA P-256", path)
}

// PublicPEM gives the public half of a key as the trustee registers it.
func PublicPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("owner's public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
