package sim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"

	"github.com/cofferproject/coffer/tee/intel"
)

// provision makes all certificates of the machine.
func (p *Platform) provision(from time.Time, o Options) error {
	var err error
	ca := func(cn string, pathLen int) *x509.Certificate {
		return &x509.Certificate{
			Subject: name(cn), NotBefore: from, NotAfter: from.AddDate(rootYears, 0, 0), IsCA: true, BasicConstraintsValid: true,
			MaxPathLen: pathLen, MaxPathLenZero: pathLen == 0, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
	}
	leaf := func(cn string) *x509.Certificate {
		return &x509.Certificate{
			Subject: name(cn), NotBefore: from, NotAfter: from.Add(o.Life), BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment,
		}
	}
	if p.root, err = issue(ca("Simulated SGX Root CA", 1), nil); err != nil {
		return err
	}
	cn := intel.SubjectPlatformCA
	if o.Processor {
		cn = intel.SubjectProcessorCA
	}
	if p.ca, err = issue(ca(cn, 0), p.root); err != nil {
		return err
	}
	if p.signer, err = issue(leaf(intel.SubjectTCBSigning), p.root); err != nil {
		return err
	}
	pck := leaf(intel.SubjectPCK)
	ext, err := p.extension(!o.Processor)
	if err != nil {
		return err
	}
	pck.ExtraExtensions = []pkix.Extension{{Id: intel.ExtensionID, Value: ext}}
	p.pck, err = issue(pck, p.ca)
	return err
}

func name(cn string) pkix.Name {
	return pkix.Name{CommonName: cn, Organization: []string{Organization}}
}

func issue(c *x509.Certificate, by *issued) (*issued, error) {
	fail := func(err error) (*issued, error) {
		return nil, fmt.Errorf("certificate %q: %w", c.Subject.CommonName, err)
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	if c.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 158)); err != nil {
		return fail(err)
	}
	// Intel's certificates have exactly these extensions, and its own library
	// refuses others, so the shape of the real ones is kept.
	point, err := k.PublicKey.Bytes()
	if err != nil {
		return fail(err)
	}
	id := sha256.Sum256(point)
	c.SubjectKeyId, c.AuthorityKeyId = id[:20], id[:20]
	c.CRLDistributionPoints = []string{"https://crl.simhw.invalid/"}
	parent, signer := c, k
	if by != nil {
		parent, signer = by.Cert, by.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &k.PublicKey, signer)
	if err != nil {
		return fail(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fail(err)
	}
	return &issued{k, cert}, nil
}

type attribute struct {
	ID    asn1.ObjectIdentifier
	Value any
}

func id(path ...int) asn1.ObjectIdentifier {
	return append(intel.ExtensionID[:len(intel.ExtensionID):len(intel.ExtensionID)], path...)
}

// extension is the SGX extension of the PCK certificate. PPID and platform
// instance id follow from the root's key.
func (p *Platform) extension(platform bool) ([]byte, error) {
	ids := sha256.Sum256(p.root.Cert.RawSubjectPublicKeyInfo)
	var tcb []attribute
	for i, svn := range cpuSVN {
		tcb = append(tcb, attribute{id(2, i+1), int(svn)})
	}
	tcb = append(tcb, attribute{id(2, 17), pceSVN}, attribute{id(2, 18), cpuSVN[:]})
	list := []attribute{{id(1), ids[:16]}, {id(2), tcb}, {id(3), pceID[:]}, {id(4), FMSPC[:]}}
	if !platform {
		return asn1.Marshal(append(list, attribute{id(5), asn1.Enumerated(intel.Standard)}))
	}
	return asn1.Marshal(append(list, attribute{id(5), asn1.Enumerated(intel.Scalable)}, attribute{id(6), ids[16:]},
		attribute{id(7), []attribute{{id(7, 1), true}, {id(7, 2), true}, {id(7, 3), true}}}))
}
