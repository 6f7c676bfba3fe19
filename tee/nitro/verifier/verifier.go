// Package verifier checks AWS Nitro evidence: attestation documents of enclaves
// and of instances with NitroTPM, to AWS's root (tee/nitro/SPEC.md).
//
// Invariants: a pure function of its inputs, no network; every refusal is a
// *denial.Denial with a stable id; the root is known by its public key; off
// unless allow_unproven names it.
//
// Trust zone: trustee and owner.
package verifier

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/internal/certchain"
	"github.com/cofferproject/coffer/tee/internal/revocation"
	"github.com/cofferproject/coffer/tee/nitro"
	"github.com/cofferproject/coffer/tee/verify"
)

// Component names this verifier in denials.
const Component = "nitro-verifier"

// What no outside vector has shown to be right (Config.AllowUnproven).
const (
	UnprovenEnclave = "nitro"
	UnprovenTPM     = "nitrotpm"
)

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonEvidenceMalformed denial.Reason = "nitro-evidence-malformed"
	ReasonDocumentMalformed denial.Reason = "nitro-document-malformed"
	ReasonChainUntrusted    denial.Reason = "nitro-chain-untrusted"
	ReasonChainExpired      denial.Reason = "nitro-chain-expired"
	ReasonRevoked           denial.Reason = "nitro-certificate-revoked"
	ReasonSignature         denial.Reason = "nitro-document-signature"
	ReasonTime              denial.Reason = "nitro-document-time"
	ReasonRegisterMissing   denial.Reason = "nitro-register-missing"
)

// minChain: leaf, instance, zone or region, root.
const minChain = 3

// Verifier checks Nitro evidence. It is immutable but for caches of what does
// not change, and safe for concurrent use.
type Verifier struct {
	cfg        verify.Config
	roots      []*x509.Certificate
	chains     revocation.Cache[[sha256.Size]byte, *chain]
	revocation revocation.Checker
}

var _ verify.Verifier = (*Verifier)(nil)

// New refuses a configuration that leaves a security choice open.
func New(c verify.Config) (*Verifier, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	v := &Verifier{cfg: c, roots: c.SimulatedRoots}
	v.revocation.InsecureExpired = c.InsecureExpiredCollateral
	if c.Kind == verify.Production {
		root, err := certchain.EmbeddedRoot(rootPEM, rootSPKI)
		if err != nil {
			return nil, err
		}
		v.roots = []*x509.Certificate{root}
	}
	return v, nil
}

// Verify implements verify.Verifier.
func (v *Verifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	e, err := nitro.Parse(in.Evidence)
	if err != nil {
		return nil, verify.Deny(ReasonEvidenceMalformed, Component, "evidence", err)
	}
	r, err := v.cfg.Kind.NewResult(Component, nitro.WireName, verify.ClassCPU, e.Simulation)
	if err != nil {
		return nil, err
	}
	d, err := parseDocument(e.Document)
	if err != nil {
		return nil, verify.Deny(ReasonDocumentMalformed, Component, "attestation document", err)
	}
	what := UnprovenEnclave
	if d.tpm {
		what = UnprovenTPM
	}
	if err := v.cfg.Unproven(Component, what); err != nil {
		return nil, err
	}
	r.Unproven = []string{what}
	if err := v.checkChain(d, in.Now, r); err != nil {
		return nil, err
	}
	if err := checkSignature(d, r); err != nil {
		return nil, err
	}
	claims(d, r)
	if err := checkReportData(d, in, r); err != nil {
		return nil, err
	}
	if err := checkRegisters(d, r); err != nil {
		return nil, err
	}
	if err := checkInitdata(d, in, r); err != nil {
		return nil, err
	}
	return []*verify.Result{r}, nil
}

func (v *Verifier) checkChain(d *document, now time.Time, r *verify.Result) error {
	if len(d.certificates) < minChain {
		return verify.Deny(ReasonChainUntrusted, Component, "certificate chain", fmt.Errorf("%d certificates, at least %d", len(d.certificates), minChain))
	}
	// A leaf signs documents for hours.
	fill := func() (*chain, error) { return v.newChain(d.certificates, now) }
	known, err := v.chains.Get(chainID(d.certificates), fill)
	if err == nil && (now.Before(known.from) || now.After(known.to)) {
		known, err = fill()
	}
	switch {
	case errors.Is(err, errCertificate):
		return verify.Deny(ReasonDocumentMalformed, Component, "attestation document", err)
	case errors.Is(err, certchain.ErrExpired):
		return verify.Deny(ReasonChainExpired, Component, "certificate chain", err)
	case err != nil:
		return verify.Deny(ReasonChainUntrusted, Component, "certificate chain", err)
	}
	d.chain = known.certs
	leaf, root := d.chain[0], d.chain[len(d.chain)-1]
	r.Checked("certificate chain", leaf.Subject.CommonName, fmt.Sprintf("%s, public key %x", root.Subject.CommonName, certchain.SPKI(root)))
	// AWS says to leave revocation lists out: a leaf lives three hours. A list
	// that is at hand is believed all the same.
	for i, c := range d.chain[:len(d.chain)-1] {
		_, err := v.revocation.Check(c, d.chain[i+1], v.cfg.Collateral, now)
		if err != nil && !errors.Is(err, revocation.ErrMissing) {
			return verify.Deny(revocation.ReasonOf(err, ReasonRevoked), Component, "certificate "+c.Subject.CommonName, err)
		}
	}
	return nil
}

// chain is a verified chain, good from from to to.
type chain struct {
	certs    []*x509.Certificate // leaf first, the root as it is trusted last
	from, to time.Time
}

var errCertificate = errors.New("a certificate is malformed")

// chainID names a chain by its bytes; each length goes with its certificate.
func chainID(ders [][]byte) (id [sha256.Size]byte) {
	h := sha256.New()
	for _, der := range ders {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(der)))
		h.Write(n[:])
		h.Write(der)
	}
	h.Sum(id[:0])
	return id
}

func (v *Verifier) newChain(ders [][]byte, now time.Time) (*chain, error) {
	c := &chain{}
	for _, der := range ders {
		cert, err := certchain.Parse(der)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errCertificate, err)
		}
		c.certs = append(c.certs, cert)
	}
	root, err := certchain.Verify(c.certs, v.roots, now)
	if err != nil {
		return nil, err
	}
	c.certs[len(c.certs)-1] = root
	leaf := c.certs[0]
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, fmt.Errorf("%s may not sign documents", leaf.Subject)
	}
	c.from, c.to = leaf.NotBefore, leaf.NotAfter
	for _, x := range c.certs {
		if x.NotBefore.After(c.from) {
			c.from = x.NotBefore
		}
		if x.NotAfter.Before(c.to) {
			c.to = x.NotAfter
		}
	}
	return c, nil
}

func checkSignature(d *document, r *verify.Result) error {
	key, err := certchain.P384(d.chain[0])
	if err != nil {
		return verify.Deny(ReasonChainUntrusted, Component, "certificate chain", err)
	}
	h := sha512.Sum384(d.toBeSigned)
	if !ecdsa.Verify(key, h[:], new(big.Int).SetBytes(d.signature[:48]), new(big.Int).SetBytes(d.signature[48:])) {
		return verify.Deny(ReasonSignature, Component, "attestation document", errors.New("the signature is not the certificate's"))
	}
	r.Checked("attestation document signature", "ES384", d.moduleID)
	// The clock of the module against its own certificate; freshness is the
	// report data's.
	if leaf := d.chain[0]; d.timestamp.Before(leaf.NotBefore) || d.timestamp.After(leaf.NotAfter) {
		return verify.Mismatch(ReasonTime, Component, "timestamp", d.timestamp.Format(time.RFC3339),
			leaf.NotBefore.UTC().Format(time.RFC3339)+" to "+leaf.NotAfter.UTC().Format(time.RFC3339), "leaf certificate")
	}
	return nil
}

func claims(d *document, r *verify.Result) {
	kind := "enclave"
	if d.tpm {
		kind = "nitrotpm"
	}
	pcrs := make(map[string]any, len(d.pcrs))
	for i, v := range d.pcrs {
		pcrs["pcr"+strconv.Itoa(i)] = hex.EncodeToString(v)
	}
	c := r.Claims
	c["kind"], c["module_id"], c["timestamp"], c["pcrs"] = kind, d.moduleID, d.timestamp.Format(time.RFC3339), pcrs
	c["user_data"], c["nonce"], c["public_key"] = hex.EncodeToString(d.userData), hex.EncodeToString(d.nonce), hex.EncodeToString(d.publicKey)
}

// checkReportData takes a document whose user data is report data.
func checkReportData(d *document, in *verify.Input, r *verify.Result) error {
	if len(d.userData) != nitro.UserDataSize && !in.InsecureSkipReportData {
		return verify.Mismatch(verify.ReasonReportData, Component, "user data", fmt.Sprintf("%d bytes", len(d.userData)), fmt.Sprintf("%d bytes", nitro.UserDataSize), "SPEC.md")
	}
	return verify.CheckReportData(Component, d.userData, in, r)
}

// checkRegisters demands those that say what runs. A debug enclave has zeros
// there.
func checkRegisters(d *document, r *verify.Result) error {
	need := []int{nitro.PCRImage, nitro.PCRBoot, nitro.PCRApp}
	if d.tpm {
		need = []int{0, 1, 2, 3, 4, 5, 6, 7, nitro.PCRTPM, 9, 11, 14}
	}
	zero := true
	for _, i := range need {
		v, ok := d.pcrs[i]
		if !ok {
			return verify.Mismatch(ReasonRegisterMissing, Component, fmt.Sprintf("PCR %d", i), "not in the document", "a value", "attestation document")
		}
		zero = zero && isZero(v)
	}
	r.Debug = zero && !d.tpm
	return nil
}

// checkInitdata holds the register that the guest extends once against the
// document that came, or against the fixed digest where none did.
func checkInitdata(d *document, in *verify.Input, r *verify.Result) error {
	register := nitro.PCRInitdata
	if d.tpm {
		register = nitro.PCRTPM
	}
	have, there := d.pcrs[register]
	name := fmt.Sprintf("PCR %d: initdata", register)
	r.Claims["init_data"] = hex.EncodeToString(have)
	if in.Initdata == nil && in.InsecureSkipInitdata {
		return nil
	}
	mismatch := func(reason denial.Reason, expected string) error {
		return verify.Mismatch(reason, Component, name, hex.EncodeToString(have), expected, "attestation request")
	}
	none := nitro.InitdataPCR(nil)
	switch {
	case !there:
		// Documents of enclaves show locked registers only.
		return verify.Mismatch(verify.ReasonInitdataMismatch, Component, name, "not in the document", "extended once, and locked", "attestation document")
	case in.Initdata == nil && isZero(have):
		return mismatch(verify.ReasonInitdataMismatch, hex.EncodeToString(none))
	case in.Initdata == nil && !bytes.Equal(have, none):
		return mismatch(verify.ReasonInitdataMissing, "the document that was measured")
	case in.Initdata == nil:
		r.Checked("initdata", "none", name)
		return nil
	case isZero(have), bytes.Equal(have, none):
		return mismatch(verify.ReasonInitdataUnexpected, "the digest of the document that came")
	}
	if want := nitro.InitdataPCR(in.Initdata); !bytes.Equal(have, want) {
		return mismatch(verify.ReasonInitdataMismatch, hex.EncodeToString(want))
	}
	doc, err := initdata.Parse(in.Initdata)
	if err == nil {
		err = doc.CheckAlgorithm(nitro.WireName)
	}
	if err != nil {
		return verify.Deny(verify.ReasonInitdataMalformed, Component, "initdata", err)
	}
	sum := sha512.Sum384(in.Initdata)
	r.InitdataDoc, r.Initdata = doc, &ear.Digest{Algorithm: string(initdata.SHA384), Hex: hex.EncodeToString(sum[:])}
	r.Checked("initdata", r.Initdata.String(), name)
	return nil
}

func isZero(b []byte) bool { return bytes.Equal(b, make([]byte, len(b))) }
