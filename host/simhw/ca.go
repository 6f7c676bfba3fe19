package simhw

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

const maxKept = 1 << 20

// Keep gives the content of dir/name, which is this machine's alone and is made on
// first use. Callers in several processes get the same.
func Keep(dir, name string, make func() ([]byte, error)) ([]byte, error) {
	b, err := keep(dir, name, make)
	if err != nil {
		return nil, fmt.Errorf("opening the simulated vendor's %s in %s: %w", name, dir, err)
	}
	return b, nil
}

func keep(dir, name string, make func() ([]byte, error)) ([]byte, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // releases
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	f, err := os.Open(path)
	if err == nil {
		return readFile(f, maxKept)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	b, err := make()
	if err != nil {
		return nil, err
	}
	tmp := filepath.Join(dir, "."+name)
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return nil, err
	}
	return b, os.Rename(tmp, path)
}

// Root gives a simulated root of this machine with its key; see Keep.
func Root(dir, name string, make func() (*ecdsa.PrivateKey, *x509.Certificate, error)) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	b, err := Keep(dir, name+".pem", func() ([]byte, error) {
		k, c, err := make()
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return nil, err
		}
		b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		return append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...), nil
	})
	if err != nil {
		return nil, nil, err
	}
	k, c, err := parseRoot(b)
	if err != nil {
		return nil, nil, fmt.Errorf("the simulated root %s in %s: %w", name, dir, err)
	}
	return k, c, nil
}

func parseRoot(b []byte) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	kb, rest := pem.Decode(b)
	cb, _ := pem.Decode(rest)
	if kb == nil || cb == nil {
		return nil, nil, errors.New("damaged: remove it and a new one will be made")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(kb.Bytes)
	if err != nil {
		return nil, nil, err
	}
	c, err := x509.ParseCertificate(cb.Bytes)
	if err != nil {
		return nil, nil, err
	}
	k, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !k.PublicKey.Equal(c.PublicKey) {
		return nil, nil, errors.New("damaged: key and certificate do not belong together")
	}
	return k, c, nil
}
