// Package nvidiatest plays NVIDIA for tests: a root, device chains of the real
// shape, signed reports, revocation lists, OCSP responses and reference
// manifests.
//
// Trust zone: tests only.
package nvidiatest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/nvidia"
	"github.com/cofferproject/coffer/tee/nvidia/sim"
)

// Note is what simulated evidence says of itself.
const Note = "test signer: there is no device"

// Begin and End bound the certificates' validity.
var (
	Begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	End   = time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC)
)

// CA is a key with its certificate.
type CA struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

var serial int64 = 1000

// New makes a certificate; a nil parent signs itself.
func New(t testing.TB, parent *CA, cn string, change func(*x509.Certificate)) *CA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial++
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	id := sha1.Sum(spki)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: cn, Organization: []string{"test"}}, NotBefore: Begin, NotAfter: End,
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: id[:],
		SignatureAlgorithm: x509.ECDSAWithSHA384,
	}
	if change != nil {
		change(c)
	}
	if parent == nil {
		parent = &CA{c, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent.Cert, &key.PublicKey, parent.Key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return &CA{c, key}
}

// Vendor is NVIDIA as far as devices go: root, identity of an architecture, and
// who provisions devices.
type Vendor struct {
	Root, Identity, Provisioner *CA
}

// URLs in the certificates, as the real ones.
const (
	ListIdentity    = "http://crl.ndis.nvidia.com/crl/l1-root.crl"
	ListProvisioner = "http://crl.ndis.nvidia.com/crl/l2-gh100.crl"
	Responder       = "http://ocsp.ndis.nvidia.com"
)

// NewVendor makes one for a chip such as "GH100", under a root or a new one.
func NewVendor(t testing.TB, model string, root *CA) *Vendor {
	v := &Vendor{Root: root}
	if root == nil {
		v.Root = New(t, nil, "Test Device Identity CA", nil)
	}
	v.Identity = New(t, v.Root, "NVIDIA "+model+" Identity", func(c *x509.Certificate) {
		c.CRLDistributionPoints, c.OCSPServer = []string{ListIdentity}, []string{Responder}
	})
	v.Provisioner = New(t, v.Identity, "NVIDIA "+model+" Provisioner ICA 1", func(c *x509.Certificate) {
		c.CRLDistributionPoints, c.OCSPServer = []string{ListProvisioner}, []string{Responder}
	})
	return v
}

// Device is one device.
type Device struct {
	Vendor *Vendor
	BROM   *CA
	Leaf   *CA
	FWID   []byte
	Arch   string
	UUID   string
	// Measurements by report index, from 1.
	Measurements map[int][]byte
	// Opaque fields in their order.
	Opaque []Field
}

// Field is one opaque data item.
type Field = sim.Field

// NewDevice makes a device of a vendor, with 64 measurements and the fields that
// a GPU has.
func (v *Vendor) NewDevice(t testing.TB, arch string) *Device {
	serial++
	fw := sha512.Sum384(fmt.Append(nil, "firmware ", serial))
	d := &Device{Vendor: v, Arch: arch, UUID: fmt.Sprintf("GPU-%d", serial), FWID: fw[:], Measurements: map[int][]byte{}}
	d.BROM = New(t, v.Provisioner, "GH100 A01 GSP BROM", nil)
	d.Leaf = d.NewLeaf(t, TCBInfo(t, d.FWID))
	for i := 1; i <= 64; i++ {
		m := sha512.Sum384([]byte{byte(i)})
		d.Measurements[i] = m[:]
	}
	d.Opaque = []Field{
		{Type: 6, Value: []byte{0, 0x74, 0, 0x96, 0x1a, 0, 0, 0}}, {Type: 15, Value: []byte("882\x00")}, {Type: 17, Value: []byte("1010\x00")}, {Type: 18, Value: []byte("0200\x00")},
		{Type: 3, Value: []byte("580.95.05\x00")}, {Type: 11, Value: []byte{0x55}}, {Type: 20, Value: d.FWID}, {Type: 34, Value: []byte{1, 0}}, {Type: 36, Value: []byte{0, 0}},
	}
	return d
}

// NewLeaf makes a signing certificate with an extension.
func (d *Device) NewLeaf(t testing.TB, ext pkix.Extension) *CA {
	return New(t, d.BROM, "GH100 A01 GSP FMC LF", func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = false, false, x509.KeyUsageDigitalSignature
		c.ExtraExtensions = []pkix.Extension{ext}
	})
}

// TCBInfo is the extension with firmware digests, as DiceTcbInfo.
func TCBInfo(t testing.TB, digests ...[]byte) pkix.Extension {
	ext, err := sim.TCBInfo(digests...)
	if err != nil {
		t.Fatal(err)
	}
	return ext
}

// Certs gives the chain, leaf first.
func (d *Device) Certs() []*x509.Certificate {
	return []*x509.Certificate{d.Leaf.Cert, d.BROM.Cert, d.Vendor.Provisioner.Cert, d.Vendor.Identity.Cert, d.Vendor.Root.Cert}
}

// PEM writes certificates.
func PEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// Unsigned gives the messages up to the signature.
func (d *Device) Unsigned(nonce []byte) []byte { return sim.Messages(nonce, d.Measurements, d.Opaque) }

// Sign appends the device's signature.
func (d *Device) Sign(t testing.TB, b []byte) []byte {
	b, err := sim.Sign(d.Leaf.Key, b)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Report gives a signed report.
func (d *Device) Report(t testing.TB, nonce []byte) []byte { return d.Sign(t, d.Unsigned(nonce)) }

// Evidence gives the device's entry of the evidence.
func (d *Device) Evidence(t testing.TB, nonce []byte) nvidia.Device {
	return nvidia.NewDevice(d.Arch, d.UUID, d.Report(t, nonce), PEM(d.Certs()...))
}
