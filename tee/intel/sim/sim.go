// Package sim plays the provisioning of an Intel machine: a root made for it
// alone, a PCK chain with the SGX extension, a Quoting Enclave and its
// attestation key, and the collateral that Intel would publish for it. Quotes of
// it have the real format and prove nothing.
//
// Invariants: the root is never Intel's, and every name says that it is
// simulated; what is quoted is the caller's (tee/tdx/sim, tee/sgx/sim).
//
// Trust zone: simulated hardware (coffer-simhw) and tests; no release guest links it.
package sim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/cofferproject/coffer/api/simhw"
	"github.com/cofferproject/coffer/tee/intel/quote"
)

// Organization is in every certificate's subject.
const Organization = simhw.Organization

// Platform is one simulated machine. Its methods may be called concurrently; its
// fields may be set before that, to play a machine that is not as it should be.
type Platform struct {
	root, ca, pck, signer *issued // signer: of TCB information
	attestation           *ecdsa.PrivateKey
	// QE is the Quoting Enclave's report body for SGX quotes; TDQE for TDX.
	QE, TDQE quote.Enclave
	// AuthData is the QE's authentication data.
	AuthData []byte
}

// issued is a certificate with its key.
type issued struct {
	Key  *ecdsa.PrivateKey
	Cert *x509.Certificate
}

// Options make a Platform.
type Options struct {
	// Now is the time of provisioning; certificates are valid from one hour
	// before. Zero: time.Now.
	Now time.Time
	// Life is how long the leaf certificates are valid; zero: ten years.
	Life time.Duration
	// Processor takes the Processor CA instead of the Platform CA.
	Processor bool
}

// Values of every simulated machine.
var (
	FMSPC  = [6]byte{0xc0, 0xff, 0xe5, 0x1a, 0x00, 0x00}
	pceID  = [2]byte{0, 0}
	cpuSVN = [16]byte{4, 4, 3, 3, 4, 1, 0, 5}
	tdxSVN = [16]byte{5, 1, 3} // SVN 5 of TDX module 1, late microcode update 3
	// QESigner is MRSIGNER of the simulated QEs.
	QESigner = sha256.Sum256([]byte("coffer simulated quoting enclave"))
)

const (
	pceSVN    = 13
	qeISVSVN  = 8
	tdqeSVN   = 4
	qeProdID  = 1
	tdqeProd  = 2
	rootYears = 30
)

// New provisions a machine.
func New(o Options) (*Platform, error) {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if o.Life == 0 {
		o.Life = 10 * 365 * 24 * time.Hour
	}
	p := &Platform{AuthData: make([]byte, 32)}
	for i := range p.AuthData {
		p.AuthData[i] = byte(i)
	}
	p.enclaves()
	from := o.Now.UTC().Truncate(time.Second).Add(-time.Hour)
	var err error
	if p.attestation, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("making the attestation key: %w", err)
	}
	return p, p.provision(from, o)
}

func (p *Platform) enclaves() {
	p.QE = quote.Enclave{CPUSVN: cpuSVN, Flags: [8]byte{0x11}, XFRM: [8]byte{0xe7}, MRSigner: QESigner, ISVProdID: [2]byte{qeProdID}, ISVSVN: [2]byte{qeISVSVN}}
	p.QE.MREnclave = sha256.Sum256([]byte("coffer simulated QE"))
	p.TDQE = p.QE
	p.TDQE.ISVProdID, p.TDQE.ISVSVN = [2]byte{tdqeProd}, [2]byte{tdqeSVN}
	p.TDQE.MREnclave = sha256.Sum256([]byte("coffer simulated TD QE"))
}

// Root is the certificate that a simulated namespace must trust.
func (p *Platform) Root() *x509.Certificate { return p.root.Cert }

// RootSPKI is its fingerprint: hex SHA-256 of the SPKI.
func (p *Platform) RootSPKI() string {
	s := sha256.Sum256(p.root.Cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(s[:])
}

// TD gives a TD report body with what the machine contributes: SVNs, the TDX
// module, attributes of a TD that is not debugged. The rest is zero.
func (p *Platform) TD() quote.TD {
	td := quote.TD{TCBSVN: tdxSVN, MRSEAM: sha512.Sum384([]byte("coffer simulated TDX module"))}
	binary.LittleEndian.PutUint64(td.TDAttributes[:], quote.TDSEPTVEDisable)
	binary.LittleEndian.PutUint64(td.XFAM[:], 0x642e7) // x87, SSE, AVX, AVX-512, PKRU, CET, AMX
	return td
}

// Enclave gives an enclave's report body with what the machine contributes.
func (p *Platform) Enclave() quote.Enclave {
	e := quote.Enclave{CPUSVN: cpuSVN, XFRM: [8]byte{0xe7}}
	binary.LittleEndian.PutUint64(e.Flags[:], quote.FlagInit|quote.FlagMode64|quote.FlagKSS)
	return e
}

// QuoteTD signs a TD report: a quote of version 4, or 5 (which a TDX 1.5 body needs).
func (p *Platform) QuoteTD(td *quote.TD, version uint16) ([]byte, error) {
	if version != 4 && version != 5 || version == 4 && td.V15 != nil {
		return nil, fmt.Errorf("no TDX quote of version %d with this body", version)
	}
	q := &quote.Quote{Header: quote.Header{Version: version, TEEType: quote.TDX}, TD: td}
	return p.sign(q, p.TDQE)
}

// QuoteEnclave signs an enclave's report.
func (p *Platform) QuoteEnclave(e *quote.Enclave, version uint16) ([]byte, error) {
	if version < 3 || version > 5 {
		return nil, fmt.Errorf("no SGX quote of version %d", version)
	}
	q := &quote.Quote{Header: quote.Header{Version: version, TEEType: quote.SGX}, Enclave: e}
	if version == 3 {
		q.Header.Reserved = [4]byte{qeISVSVN, 0, pceSVN, 0}
	}
	return p.sign(q, p.QE)
}

func (p *Platform) sign(q *quote.Quote, qe quote.Enclave) ([]byte, error) {
	q.Header.AttKeyType, q.Header.Vendor = quote.AttKeyECDSAP256, quote.VendorIntel
	id := sha256.Sum256(p.root.Cert.RawSubjectPublicKeyInfo)
	copy(q.Header.UserData[:16], id[:])
	point, err := p.attestation.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("attestation key: %w", err)
	}
	q.AttestationKey = point[1:]
	q.QEAuthData = p.AuthData
	sum := sha256.New()
	sum.Write(q.AttestationKey)
	sum.Write(q.QEAuthData)
	sum.Sum(qe.ReportData[:0])
	q.QEReportRaw = qe.Bytes()
	if q.QEReportSignature, err = signRaw(p.pck.Key, q.QEReportRaw); err != nil {
		return nil, err
	}
	q.Signed = q.SignedPart()
	if q.Signature, err = signRaw(p.attestation, q.Signed); err != nil {
		return nil, err
	}
	q.CertType, q.CertData = quote.CertPCKChain, chainPEM(p.pck, p.ca, p.root)
	return q.Bytes(), nil
}

// signRaw gives r and s, 32 bytes each.
func signRaw(k *ecdsa.PrivateKey, msg []byte) ([]byte, error) {
	h := sha256.Sum256(msg)
	r, s, err := ecdsa.Sign(rand.Reader, k, h[:])
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	out := make([]byte, quote.SignatureSize)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out, nil
}

func chainPEM(list ...*issued) []byte {
	var out []byte
	for _, i := range list {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Cert.Raw})...)
	}
	return out
}

// state is a machine on disk.
type state struct {
	Version     int           `json:"version"`
	Attestation []byte        `json:"attestation_key"` // PKCS #8
	Issued      []stateIssued `json:"issued"`          // root, CA, PCK, TCB signer
}

type stateIssued struct {
	Key  []byte `json:"key"`         // PKCS #8
	Cert []byte `json:"certificate"` // DER
}

// Encode gives the machine with its private keys, so that it has one root for
// all its life.
func (p *Platform) Encode() ([]byte, error) {
	s := state{Version: 1}
	var err error
	if s.Attestation, err = x509.MarshalPKCS8PrivateKey(p.attestation); err != nil {
		return nil, fmt.Errorf("encoding the machine: %w", err)
	}
	for _, i := range []*issued{p.root, p.ca, p.pck, p.signer} {
		k, err := x509.MarshalPKCS8PrivateKey(i.Key)
		if err != nil {
			return nil, fmt.Errorf("encoding the machine: %w", err)
		}
		s.Issued = append(s.Issued, stateIssued{k, i.Cert.Raw})
	}
	return json.Marshal(s)
}

// Load reads what Encode gave.
func Load(b []byte) (*Platform, error) {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("simulated machine: %w", err)
	}
	if s.Version != 1 || len(s.Issued) != 4 {
		return nil, errors.New("simulated machine: another version")
	}
	fresh, err := New(Options{}) // for the values that are in the code
	if err != nil {
		return nil, err
	}
	if fresh.attestation, err = key(s.Attestation); err != nil {
		return nil, err
	}
	for i, at := range []**issued{&fresh.root, &fresh.ca, &fresh.pck, &fresh.signer} {
		k, err := key(s.Issued[i].Key)
		if err != nil {
			return nil, err
		}
		c, err := x509.ParseCertificate(s.Issued[i].Cert)
		if err != nil {
			return nil, fmt.Errorf("simulated machine: %w", err)
		}
		*at = &issued{k, c}
	}
	return fresh, nil
}

func key(der []byte) (*ecdsa.PrivateKey, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("simulated machine: %w", err)
	}
	e, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("simulated machine: a key of another kind")
	}
	return e, nil
}
