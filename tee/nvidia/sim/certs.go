package sim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"

	"github.com/cofferproject/coffer/api/simhw"
	"github.com/cofferproject/coffer/tee/nvidia"
)

const years = 25

// model is the chip in the name that the verifier reads the architecture from.
const model = "GH100"

// holder is a key with its certificate.
type holder struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// template is a CA's certificate, or with leaf one that signs documents.
func template(cn string, now time.Time, leaf bool) *x509.Certificate {
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: cn, Organization: []string{simhw.Organization}}, NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(years, 0, 0),
		SignatureAlgorithm: x509.ECDSAWithSHA384, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if leaf {
		c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature
	}
	return c
}

// issue makes a key and its certificate; a nil parent signs itself.
func issue(c *x509.Certificate, parent *holder) (*holder, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if c.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	by := &holder{c, key}
	if parent != nil {
		by = parent
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by.Cert, &key.PublicKey, by.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate %q: %w", c.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &holder{cert, key}, nil
}

// Revocation lists, below the vendor's origin.
const (
	listRoot     = "/crl/root.crl"
	listIdentity = "/crl/identity.crl"
	listRIM      = "/crl/rim.crl"
)

// provision makes the vendor and one device of it, in the shape of the real
// chains: root, architecture, who provisions devices, device, its firmware.
func (g *GPU) provision(now time.Time) error {
	var err error
	step := func(to **holder, c *x509.Certificate, parent *holder) {
		if err == nil {
			*to, err = issue(c, parent)
		}
	}
	step(&g.root, template("Coffer simulated device root", now, false), nil)
	if err != nil {
		return err
	}
	base := nvidia.SimulatedOrigin(g.root.Cert)
	listed := func(c *x509.Certificate, list string) *x509.Certificate {
		c.CRLDistributionPoints = []string{base + list}
		return c
	}
	step(&g.identity, listed(template(model+" Identity", now, false), listRoot), g.root)
	step(&g.provisioner, listed(template(model+" Provisioner", now, false), listIdentity), g.identity)
	step(&g.device, template(model+" simulated device", now, false), g.provisioner)
	leaf := template(model+" simulated firmware", now, true)
	ext, xerr := TCBInfo(firmwareID())
	if xerr != nil {
		return xerr
	}
	leaf.ExtraExtensions = []pkix.Extension{ext}
	step(&g.leaf, leaf, g.device)
	step(&g.rimCA, listed(template("Coffer simulated manifest CA", now, false), listRoot), g.root)
	step(&g.rimSigner, listed(template("Coffer simulated manifest signer", now, true), listRIM), g.rimCA)
	return err
}

var oidSHA384 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}

// TCBInfo is the extension with firmware digests, as DiceTcbInfo.
func TCBInfo(digests ...[]byte) (pkix.Extension, error) {
	type fwid struct {
		Alg    asn1.ObjectIdentifier
		Digest []byte
	}
	var list []fwid
	for _, d := range digests {
		list = append(list, fwid{oidSHA384, d})
	}
	v, err := asn1.Marshal(struct {
		Vendor string `asn1:"tag:0,utf8"`
		SVN    int    `asn1:"tag:3"`
		FWIDs  []fwid `asn1:"tag:6"`
	}{"TEST", 1, list})
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 23, 133, 5, 4, 1}, Value: v}, err
}
