package sim

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cofferproject/coffer/tee/snp"
)

// Generation says which chip is played.
type Generation struct {
	Product string // "Milan", "Genoa", "Turin"
	CPU     snp.CPUID
	Version uint32 // of its reports
}

// Generations that can be played.
var (
	Milan = Generation{"Milan", snp.CPUID{Family: 0x19, Model: 0x01, Stepping: 1}, 2}
	Genoa = Generation{"Genoa", snp.CPUID{Family: 0x19, Model: 0x11, Stepping: 1}, 3}
	Turin = Generation{"Turin", snp.CPUID{Family: 0x1A, Model: 0x02, Stepping: 1}, 5}
)

// DefaultTCB gives a TCB version in the generation's layout.
func (g Generation) DefaultTCB() snp.TCB {
	if g.CPU.Family == 0x1A {
		return snp.TCB{WithFMC: true, FMC: 1, Bootloader: 1, TEE: 1, SNP: 4, Microcode: 80}
	}
	return snp.TCB{Bootloader: 10, SNP: 23, Microcode: 84}
}

// Chip is a processor at one TCB version, with its key and certificate.
type Chip struct {
	Generation Generation
	TCB        snp.TCB
	ID         [64]byte
	VLEK       bool

	key   *ecdsa.PrivateKey
	cert  []byte
	chain []snp.Cert
}

// Leaf is what a VCEK or VLEK certificate says. Tests issue others than the
// chip's own.
type Leaf struct {
	Product   string
	TCB       snp.TCB
	HWID      []byte // nil in a VLEK
	CSP       string // "" in a VCEK
	NotBefore time.Time
	NotAfter  time.Time
}

// Chip gives the machine's chip. Its certificate is made once for each TCB
// version and kept.
func (a *Authority) Chip(g Generation, t snp.TCB, now time.Time) (*Chip, error) {
	c := &Chip{Generation: g, TCB: t}
	n := 64
	if t.WithFMC {
		n = 8
	}
	id, err := a.derive("chip "+g.Product, n)
	if err != nil {
		return nil, fmt.Errorf("simulated chip: %w", err)
	}
	copy(c.ID[:], id)
	if c.key, err = a.vcekKey(g.Product, t); err != nil {
		return nil, fmt.Errorf("simulated chip: %w", err)
	}
	b := t.Bytes()
	path := ""
	if a.dir != "" {
		path = filepath.Join(a.dir, "snp-vcek-"+g.Product+"-"+hex.EncodeToString(b[:])+".der")
		if c.cert = kept(path, c.key, now); c.cert == nil {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("simulated chip: %w", err)
			}
		}
	}
	if c.cert == nil {
		leaf := Leaf{Product: g.Product, TCB: t, HWID: id, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(leafYear, 0, 0)}
		if c.cert, err = a.Issue(leaf, &c.key.PublicKey); err != nil {
			return nil, fmt.Errorf("simulated chip: %w", err)
		}
		if path != "" {
			if err := writeOnce(a.dir, path, c.cert); errors.Is(err, fs.ErrExist) {
				if other := kept(path, c.key, now); other != nil {
					c.cert = other
				}
			} else if err != nil {
				return nil, fmt.Errorf("simulated chip: %w", err)
			}
		}
	}
	c.chain = []snp.Cert{{Type: snp.CertVCEK, Data: c.cert}, {Type: snp.CertASK, Data: a.ask.Raw}, {Type: snp.CertARK, Data: a.ark.Raw}}
	return c, nil
}

// kept gives a certificate that was made before, if it is still of use.
func kept(path string, key *ecdsa.PrivateKey, now time.Time) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	c, err := x509.ParseCertificate(b)
	if err != nil || !key.PublicKey.Equal(c.PublicKey) || now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return nil
	}
	return b
}

// Issue signs a leaf for a key.
func (a *Authority) Issue(l Leaf, pub *ecdsa.PublicKey) ([]byte, error) {
	cn := "SEV-VCEK"
	if l.CSP != "" {
		cn = "SEV-VLEK"
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(0), Subject: name(cn), NotBefore: l.NotBefore, NotAfter: l.NotAfter, SignatureAlgorithm: x509.SHA384WithRSAPSS,
	}
	add := func(v []byte, id ...int) {
		t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, id...), Value: v})
	}
	number := func(v uint8) []byte { return marshal(int(v)) }
	product := l.Product
	if !l.TCB.WithFMC {
		product += "-B1"
	}
	add(number(map[bool]uint8{true: 1}[l.TCB.WithFMC]), 1)
	add(append([]byte{asn1.TagIA5String, byte(len(product))}, product...), 2)
	add(number(l.TCB.Bootloader), 3, 1)
	add(number(l.TCB.TEE), 3, 2)
	add(number(l.TCB.SNP), 3, 3)
	add(number(l.TCB.Microcode), 3, 8)
	if l.TCB.WithFMC {
		add(number(l.TCB.FMC), 3, 9)
	}
	if l.HWID != nil {
		add(l.HWID, 4)
	}
	if l.CSP != "" {
		add(append([]byte{asn1.TagIA5String, byte(len(l.CSP))}, l.CSP...), 5)
	}
	return x509.CreateCertificate(rand.Reader, t, a.ask, pub, a.askKey)
}

// marshal encodes an integer.
func marshal(n int) []byte {
	b, err := asn1.Marshal(n)
	if err != nil {
		panic(err) // an int always has an encoding
	}
	return b
}

// Certs gives the chip's certificate table: leaf, signing key, root.
func (c *Chip) Certs() []snp.Cert { return slices.Clone(c.chain) }

// PublicKey gives the key that verifies the chip's reports.
func (c *Chip) PublicKey() *ecdsa.PublicKey { return &c.key.PublicKey }

// Sign gives the report with a signature of the chip's key. It signs whatever it
// is given; a Machine fills reports as hardware does.
func (c *Chip) Sign(r *snp.Report) ([]byte, error) {
	raw := r.Bytes()
	sum := sha512.Sum384(raw[:snp.SignedSize])
	x, y, err := ecdsa.Sign(rand.Reader, c.key, sum[:])
	if err != nil {
		return nil, fmt.Errorf("signing simulated report: %w", err)
	}
	for i, n := range []*big.Int{x, y} {
		b := n.FillBytes(make([]byte, 72))
		slices.Reverse(b)
		copy(raw[snp.SignedSize+72*i:], b)
	}
	return raw, nil
}
