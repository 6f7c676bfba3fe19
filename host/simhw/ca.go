package simhw

import (
	"crypto"
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

const maxCA = 64 << 10

// Root gives the simulated root of this machine in dir/name.pem; make makes it on
// first use. Callers in several processes get the same one.
func Root(dir, name string, make func() (*ecdsa.PrivateKey, *x509.Certificate, error)) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	fail := func(err error) (*ecdsa.PrivateKey, *x509.Certificate, error) {
		return nil, nil, fmt.Errorf("opening the simulated root %s in %s: %w", name, dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	path := filepath.Join(dir, name+".pem")
	lock, err := os.OpenFile(filepath.Join(dir, name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fail(err)
	}
	defer lock.Close() // releases
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fail(err)
	}
	k, c, err := readRoot(path)
	if !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return fail(err)
		}
		return k, c, nil
	}
	if k, c, err = make(); err != nil {
		return fail(err)
	}
	if err := writeRoot(path, k, c); err != nil {
		return fail(err)
	}
	return k, c, nil
}

func readRoot(path string) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	b, err := readFile(f, maxCA)
	if err != nil {
		return nil, nil, err
	}
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

func writeRoot(path string, k crypto.Signer, c *x509.Certificate) error {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
