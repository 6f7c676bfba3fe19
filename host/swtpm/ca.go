package swtpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cofferproject/coffer/api/simhw"
)

// CA is the simulated TPM manufacturer of this machine.
type CA struct {
	key  crypto.Signer
	root *x509.Certificate
}

const caFile = "ek-root.pem"

// OpenCA reads the CA in dir, or makes it there if there is none. Callers in
// several processes get the same one.
func OpenCA(dir string) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the simulated TPM manufacturer: %w", err)
	}
	ca, err := readCA(dir)
	if errors.Is(err, fs.ErrNotExist) {
		ca, err = makeCA(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the simulated TPM manufacturer in %s: %w", dir, err)
	}
	return ca, nil
}

// RootDER is the self-signed root certificate.
func (c *CA) RootDER() []byte { return c.root.Raw }

// RootSPKI is the hex SHA-256 of the root's SubjectPublicKeyInfo.
func (c *CA) RootSPKI() string {
	h := sha256.Sum256(c.root.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(h[:])
}

func readCA(dir string) (*CA, error) {
	b, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, err
	}
	kb, rest := pem.Decode(b)
	cb, _ := pem.Decode(rest)
	if kb == nil || cb == nil {
		return nil, errors.New("damaged: remove it and a new one will be made")
	}
	k, err := x509.ParsePKCS8PrivateKey(kb.Bytes)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(cb.Bytes)
	if err != nil {
		return nil, err
	}
	ek, ok := k.(*ecdsa.PrivateKey)
	if !ok || !ek.PublicKey.Equal(root.PublicKey) {
		return nil, errors.New("damaged: key and certificate do not belong together")
	}
	return &CA{ek, root}, nil
}

// makeCA makes a CA under a lock; another process may have been faster.
func makeCA(dir string) (*CA, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // releases
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, err
	}
	if ca, err := readCA(dir); !errors.Is(err, fs.ErrNotExist) {
		return ca, err
	}
	// Who starts a pod reads this key and signs with it once: P-384 takes ten times as long.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	sn := serial()
	tmpl := &x509.Certificate{
		SerialNumber: sn,
		Subject: pkix.Name{
			Organization: []string{simhw.Organization},
			CommonName:   fmt.Sprintf("Simulated TPM EK root %x", sn.Bytes()[:4]),
		},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk})
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	tmp := filepath.Join(dir, "."+caFile)
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, filepath.Join(dir, caFile)); err != nil {
		return nil, err
	}
	return readCA(dir)
}

// Certificates hold for as long as anybody simulates: a wrong clock should not
// be what breaks a simulation.
var (
	notBefore = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(2099, 12, 31, 23, 59, 59, 0, time.UTC)
)

func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	b[0] = b[0]&0x7f | 0x40 // positive and of full length
	return new(big.Int).SetBytes(b)
}

var (
	oidSAN             = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidTPMManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidTPMModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidTPMVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
	oidEKCertificate   = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
)

// issue signs an endorsement key's certificate (TCG EK Credential Profile,
// section 3.2).
func (c *CA) issue(ek *ecdsa.PublicKey) ([]byte, error) {
	san, err := tpmSAN()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageKeyAgreement,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{oidEKCertificate},
		// The subject is empty, so the alternative name must be critical.
		ExtraExtensions: []pkix.Extension{{Id: oidSAN, Critical: true, Value: san}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.root, ek, c.key)
	if err != nil {
		return nil, fmt.Errorf("issuing an endorsement certificate: %w", err)
	}
	return der, nil
}

// tpmSAN is a directoryName that names the TPM's kind.
func tpmSAN() ([]byte, error) {
	type attr struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"utf8"`
	}
	type rdn []attr
	set := func(t asn1.ObjectIdentifier, v string) asn1.RawValue {
		b, err := asn1.MarshalWithParams(rdn{{t, v}}, "set")
		if err != nil {
			panic(err) // constants only
		}
		return asn1.RawValue{FullBytes: b}
	}
	name, err := asn1.Marshal([]asn1.RawValue{
		set(oidTPMManufacturer, "id:00001014"), // libtpms says IBM
		set(oidTPMModel, "swtpm (simulated)"),
		set(oidTPMVersion, "id:20191023"),
	})
	if err != nil {
		return nil, err
	}
	// GeneralName directoryName [4] is explicit: Name is a CHOICE.
	return asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}})
}
