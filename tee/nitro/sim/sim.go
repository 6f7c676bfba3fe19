// Package sim plays the Nitro Secure Module of one enclave for coffer-simhw: it
// measures as AWS's hypervisor measures an enclave image (EIF) with one ramdisk,
// keeps the registers, answers the module's requests and signs documents under a
// root of the real chain's shape.
//
// It protects nothing: who runs it can let it sign anything.
//
// Invariant: it shares no code with tee/nitro/measure, so that the two check each
// other.
//
// Trust zone: host (coffer-simhw) and tests; the guest never links it.
package sim

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/simhw"
	"github.com/cofferproject/coffer/tee/nitro/cbor"
)

// Registers of the module.
const (
	registers  = 32
	hardware   = 16 // the first 16 are locked at launch
	digestSize = 48
)

// What a document may carry, in bytes (AWS: Nitro Enclaves attestation process).
const (
	maxUserData  = 512
	maxNonce     = 512
	maxPublicKey = 1024
)

// NewRoot makes a root as AWS's is, valid for ten years: of P-384, signed by
// itself, "aws.nitro-enclaves" with a word before it.
func NewRoot(now time.Time) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a simulated Nitro root: %w", err)
	}
	c := template("simulated.aws.nitro-enclaves", now, now.AddDate(10, 0, 0))
	cert, err := issue(c, c, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("making a simulated Nitro root: %w", err)
	}
	return key, cert, nil
}

func template(cn string, from, to time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{Country: []string{"US"}, Organization: []string{simhw.Organization}, OrganizationalUnit: []string{"AWS"}, CommonName: cn},
		NotBefore: from.Add(-time.Minute).UTC().Truncate(time.Second), NotAfter: to.UTC().Truncate(time.Second),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		SignatureAlgorithm: x509.ECDSAWithSHA384,
	}
}

func issue(c, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	var err error
	if c.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Inputs is what an enclave is made of.
type Inputs struct {
	Kernel, Initrd []byte
	Cmdline        string // without the zero at its end
	// Role and Instance go into PCR 3 and 4; "": the register stays zero.
	Role, Instance string
	// Debug leaves the registers of the image zero, as --debug-mode does.
	Debug bool
}

// Enclave is one running enclave's module. It is safe for concurrent use.
type Enclave struct {
	id     string
	root   *x509.Certificate
	rkey   *ecdsa.PrivateKey
	now    func() time.Time
	mu     sync.Mutex
	pcrs   [registers][digestSize]byte
	locked [registers]bool
}

// Launch measures the inputs as the hypervisor does at the start.
func Launch(rootKey *ecdsa.PrivateKey, root *x509.Certificate, in *Inputs, now func() time.Time) (*Enclave, error) {
	if len(in.Kernel) == 0 || now == nil {
		return nil, errors.New("simulated enclave: no kernel, or no clock")
	}
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return nil, fmt.Errorf("simulated enclave: %w", err)
	}
	e := &Enclave{id: fmt.Sprintf("i-00000000000000000-enc%x", id), root: root, rkey: rootKey, now: now}
	for i := range hardware {
		e.locked[i] = true
	}
	if !in.Debug {
		image := sha512.New384()
		for _, part := range [][]byte{in.Kernel, []byte(in.Cmdline), in.Initrd} {
			image.Write(part)
		}
		// With one ramdisk boot and image are the same, and of the application
		// there is nothing.
		whole := image.Sum(nil)
		nothing := sha512.Sum384(nil)
		e.extend(0, whole)
		e.extend(1, whole)
		e.extend(2, nothing[:])
	}
	for i, s := range map[int]string{3: in.Role, 4: in.Instance} {
		if s != "" {
			h := sha512.Sum384([]byte(s))
			e.extend(i, h[:])
		}
	}
	return e, nil
}

func (e *Enclave) extend(i int, data []byte) {
	h := sha512.New384()
	h.Write(e.pcrs[i][:])
	h.Write(data)
	e.pcrs[i] = [digestSize]byte(h.Sum(nil))
}

// PCRs gives the registers, for the log of what was measured.
func (e *Enclave) PCRs() map[int][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[int][]byte{}
	for i := range e.pcrs {
		out[i] = bytes.Clone(e.pcrs[i][:])
	}
	return out
}

// Document gives a signed document over the locked registers; nil for what is
// not to be in it. The chain is made anew, as AWS's is every few hours.
func (e *Enclave) Document(userData, nonce, publicKey []byte) ([]byte, error) {
	if len(userData) > maxUserData || len(nonce) > maxNonce || len(publicKey) > maxPublicKey {
		return nil, errors.New("simulated enclave: more than a document may carry")
	}
	now := e.now()
	pcrs := cbor.Map{}
	e.mu.Lock()
	for i := range e.pcrs {
		if e.locked[i] {
			pcrs = append(pcrs, cbor.Member{Key: uint64(i), Value: bytes.Clone(e.pcrs[i][:])})
		}
	}
	e.mu.Unlock()
	return e.sign("pcrs", pcrs, now, userData, nonce, publicKey)
}

// TPMDocument gives a document as NitroTPM does, over given registers.
func (e *Enclave) TPMDocument(values map[int][]byte, userData []byte) ([]byte, error) {
	pcrs := cbor.Map{}
	for _, i := range slices.Sorted(maps.Keys(values)) {
		pcrs = append(pcrs, cbor.Member{Key: uint64(i), Value: values[i]})
	}
	return e.sign("nitrotpm_pcrs", pcrs, e.now(), userData, nil, nil)
}

func (e *Enclave) sign(field string, pcrs cbor.Map, now time.Time, userData, nonce, publicKey []byte) ([]byte, error) {
	bundle, leaf, key, err := e.chain(now)
	if err != nil {
		return nil, fmt.Errorf("simulated enclave: %w", err)
	}
	opt := func(b []byte) any {
		if b == nil {
			return nil
		}
		return b
	}
	payload, err := cbor.Encode(cbor.Map{
		{Key: "module_id", Value: e.id}, {Key: "digest", Value: "SHA384"}, {Key: "timestamp", Value: uint64(now.UnixMilli())}, {Key: field, Value: pcrs},
		{Key: "certificate", Value: leaf}, {Key: "cabundle", Value: bundle},
		{Key: "public_key", Value: opt(publicKey)}, {Key: "user_data", Value: opt(userData)}, {Key: "nonce", Value: opt(nonce)},
	})
	if err != nil {
		return nil, fmt.Errorf("simulated enclave: %w", err)
	}
	return Sign(key, payload)
}

// Sign makes the COSE_Sign1 around a payload.
func Sign(key *ecdsa.PrivateKey, payload []byte) ([]byte, error) {
	protected := []byte{0xa1, 0x01, 0x38, 0x22} // {1: -35}, ES384
	tbs, err := cbor.Encode([]any{"Signature1", protected, []byte{}, payload})
	if err != nil {
		return nil, err
	}
	h := sha512.Sum384(tbs)
	r, s, err := ecdsa.Sign(rand.Reader, key, h[:])
	if err != nil {
		return nil, err
	}
	sig := make([]byte, 96)
	r.FillBytes(sig[:48])
	s.FillBytes(sig[48:])
	return cbor.Encode([]any{protected, cbor.Map{}, payload, sig})
}

// chain makes the certificates between the root and the document: region, zone,
// instance and enclave; the bundle starts with the root.
func (e *Enclave) chain(now time.Time) (bundle []any, leaf []byte, key *ecdsa.PrivateKey, err error) {
	parent, pkey := e.root, e.rkey
	bundle = []any{e.root.Raw}
	steps := []struct {
		cn    string
		valid time.Duration
	}{{"simulated.region.aws.nitro-enclaves", 20 * 24 * time.Hour}, {"simulated.zonal.region.aws.nitro-enclaves", 24 * time.Hour}, {"i-00000000000000000.simulated.aws.nitro-enclaves", 24 * time.Hour}, {e.id + ".simulated.aws", 3 * time.Hour}}
	for i, s := range steps {
		if key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
			return nil, nil, nil, err
		}
		c := template(s.cn, now, now.Add(s.valid))
		last := i == len(steps)-1
		if last {
			c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature
		}
		cert, err := issue(c, parent, &key.PublicKey, pkey)
		if err != nil {
			return nil, nil, nil, err
		}
		if last {
			return bundle, cert.Raw, key, nil
		}
		bundle = append(bundle, cert.Raw)
		parent, pkey = cert, key
	}
	return nil, nil, nil, errors.New("no chain")
}

// NSM answers one request as /dev/nsm does. It fails for no request: what it
// does not take it answers with an error of the module's.
func (e *Enclave) NSM(_ context.Context, request []byte) ([]byte, error) {
	return cbor.Encode(e.answer(request))
}
