// Package sim plays SEV-SNP hardware for coffer-simhw: a chip with a certificate
// chain of AMD's shape under a root made on this machine, the launch digest that
// the hardware would compute, and reports of the real format over both. It
// protects nothing, and the evidence says so.
//
// Invariants: no key of it is AMD's, no name of it looks like AMD's; the
// kernel-hash table and the launch digest are computed here with nothing of
// package measure, so that the two can be held against each other; only
// coffer-simhw and tests link it.
//
// Trust zone: none. Whoever owns the machine owns the keys.
package sim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/cofferproject/coffer/api/simhw"
	"github.com/cofferproject/coffer/tee/snp"
)

const (
	rsaBits  = 4096
	seedSize = 32
	fileName = "snp-authority.pem"
	seedType = "COFFER SIMULATED CHIP SEED"
	maxFile  = 64 << 10
	caYears  = 25
	leafYear = 7
)

// Authority is the root, signing key and chip of one machine.
type Authority struct {
	dir    string
	ark    *x509.Certificate
	arkKey *rsa.PrivateKey
	ask    *x509.Certificate
	askKey *rsa.PrivateKey
	seed   []byte
}

// OpenAuthority loads the machine's authority from dir, or makes it: that takes
// seconds, once. Its file holds all keys and is readable by its owner alone. Of
// two processes that make one at the same time, one wins and both use it.
func OpenAuthority(dir string, now time.Time) (*Authority, error) {
	path := filepath.Join(dir, fileName)
	a, err := load(path)
	if errors.Is(err, fs.ErrNotExist) {
		if a, err = newAuthority(now); err != nil {
			return nil, fmt.Errorf("making simulated SNP authority: %w", err)
		}
		if err = a.store(dir, path); errors.Is(err, fs.ErrExist) {
			a, err = load(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("simulated SNP authority: %w", err)
	}
	a.dir = dir
	return a, nil
}

// NewAuthority makes an authority that is kept nowhere.
func NewAuthority(now time.Time) (*Authority, error) { return newAuthority(now) }

func newAuthority(now time.Time) (*Authority, error) {
	a := &Authority{seed: make([]byte, seedSize)}
	if _, err := rand.Read(a.seed); err != nil {
		return nil, err
	}
	var err error
	if a.arkKey, err = rsa.GenerateKey(rand.Reader, rsaBits); err != nil {
		return nil, err
	}
	if a.askKey, err = rsa.GenerateKey(rand.Reader, rsaBits); err != nil {
		return nil, err
	}
	root := caTemplate("ARK-Coffer-Simulation", 1, now)
	if a.ark, err = issue(root, root, &a.arkKey.PublicKey, a.arkKey); err != nil {
		return nil, err
	}
	t := caTemplate("SEV-Coffer-Simulation", 2, now)
	t.MaxPathLenZero = true
	a.ask, err = issue(t, a.ark, &a.askKey.PublicKey, a.arkKey)
	return a, err
}

func name(cn string) pkix.Name {
	return pkix.Name{CommonName: cn, Organization: []string{simhw.Organization}}
}

func caTemplate(cn string, serial int64, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: name(cn), NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(caYears, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SignatureAlgorithm: x509.SHA384WithRSAPSS,
	}
}

func issue(t, parent *x509.Certificate, pub any, key *rsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Root gives the root certificate, which simulated namespaces trust by its SPKI.
func (a *Authority) Root() *x509.Certificate { return a.ark }

// SigningKey gives the certificate that signs VCEKs.
func (a *Authority) SigningKey() *x509.Certificate { return a.ask }

// CRL gives a revocation list of the root that names these serial numbers.
func (a *Authority) CRL(from, until time.Time, revoked ...*big.Int) ([]byte, error) {
	t := &x509.RevocationList{Number: big.NewInt(from.Unix()), ThisUpdate: from, NextUpdate: until, SignatureAlgorithm: x509.SHA384WithRSAPSS}
	for _, n := range revoked {
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: from})
	}
	return a.SignCRL(t)
}

// SignCRL gives a revocation list of the root as the template says.
func (a *Authority) SignCRL(t *x509.RevocationList) ([]byte, error) {
	return x509.CreateRevocationList(rand.Reader, t, a.ark, a.arkKey)
}

// derive gives n bytes that depend on the chip and on what.
func (a *Authority) derive(what string, n int) ([]byte, error) {
	return hkdf.Key(sha256.New, a.seed, nil, "coffer simulated snp 1 "+what, n)
}

// vcekKey derives the chip's key for a TCB version, as hardware does: another
// TCB has another key.
func (a *Authority) vcekKey(product string, t snp.TCB) (*ecdsa.PrivateKey, error) {
	for i := range 8 { // a value above the group's order is next to impossible
		b, err := a.derive(fmt.Sprintf("key %s %s %d", product, t, i), 48)
		if err != nil {
			return nil, err
		}
		if k, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), b); err == nil {
			return k, nil
		}
	}
	return nil, errors.New("deriving the chip's key: no value in range")
}

func (a *Authority) store(dir, path string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var b []byte
	add := func(kind string, der []byte) {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	for _, x := range []struct {
		cert *x509.Certificate
		key  *rsa.PrivateKey
	}{{a.ark, a.arkKey}, {a.ask, a.askKey}} {
		add("CERTIFICATE", x.cert.Raw)
		der, err := x509.MarshalPKCS8PrivateKey(x.key)
		if err != nil {
			return err
		}
		add("PRIVATE KEY", der)
	}
	add(seedType, a.seed)
	return writeOnce(dir, path, b)
}

// writeOnce puts a complete file in place; fs.ErrExist: there is one already.
func writeOnce(dir, path string, b []byte) error {
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

func load(path string) (*Authority, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: readable by others than its owner", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, err
	}
	a := new(Authority)
	for _, x := range []struct {
		cert **x509.Certificate
		key  **rsa.PrivateKey
	}{{&a.ark, &a.arkKey}, {&a.ask, &a.askKey}} {
		var c, k []byte
		if c, b, err = block(b, "CERTIFICATE"); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if k, b, err = block(b, "PRIVATE KEY"); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if *x.cert, err = x509.ParseCertificate(c); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		any, err := x509.ParsePKCS8PrivateKey(k)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		var ok bool
		if *x.key, ok = any.(*rsa.PrivateKey); !ok || !(*x.key).PublicKey.Equal((*x.cert).PublicKey) {
			return nil, fmt.Errorf("%s: a key that is not its certificate's", path)
		}
	}
	if a.seed, _, err = block(b, seedType); err == nil && len(a.seed) != seedSize {
		err = errors.New("chip seed of another size")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

func block(b []byte, kind string) (der, rest []byte, err error) {
	p, rest := pem.Decode(b)
	if p == nil || p.Type != kind {
		return nil, nil, fmt.Errorf("no %s where one belongs", kind)
	}
	return p.Bytes, rest, nil
}
