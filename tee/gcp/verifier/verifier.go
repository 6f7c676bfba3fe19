// Package verifier judges the evidence of Google's confidential VMs with a vTPM:
// the hardware's report and the host's vTPM, each for itself over the session's
// data (tee/gcp/SPEC.md, which says what little that is worth).
//
// Invariants: no network, no files; off until allow_unproven names it; binds no
// initdata, so no secret follows from it; every refusal is a typed denial.
//
// Trust zone: trustee and owner.
package verifier

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/tee/gcp"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/snp"
	snpverifier "github.com/cofferproject/coffer/tee/snp/verifier"
	tdxverifier "github.com/cofferproject/coffer/tee/tdx/verifier"
	tpmquote "github.com/cofferproject/coffer/tee/tpm/quote"
	tpmverifier "github.com/cofferproject/coffer/tee/tpm/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

const component = "gcp-verifier"

// Unproven names this verifier in allow_unproven.
const Unproven = "gcp"

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonMalformed      denial.Reason = "gcp-evidence-malformed"
	ReasonAKUntrusted    denial.Reason = "gcp-ak-untrusted"
	ReasonQuoteMalformed denial.Reason = "gcp-quote-malformed"
	ReasonQuoteSignature denial.Reason = "gcp-quote-signature"
	ReasonQuoteSelection denial.Reason = "gcp-quote-selection"
	ReasonQuoteDigest    denial.Reason = "gcp-quote-digest"
)

var checker = tpmquote.Checker{
	Component: component, Malformed: ReasonQuoteMalformed, Signature: ReasonQuoteSignature, Selection: ReasonQuoteSelection, Digest: ReasonQuoteDigest,
}

// Verifier judges evidence of TEE "gcp". It is immutable but for caches.
type Verifier struct {
	cfg   verify.Config
	roots []*x509.Certificate // of attestation keys
	snp   *snpverifier.Reports
	tdx   *intel.Verifier
}

var _ verify.Verifier = (*Verifier)(nil)

// New makes the verifier.
func New(cfg verify.Config) (verify.Verifier, error) {
	v := &Verifier{cfg: cfg, roots: cfg.SimulatedRoots}
	var err error
	if v.snp, err = snpverifier.NewReports(cfg, component); err != nil {
		return nil, err
	}
	if v.tdx, err = intel.New(cfg); err != nil {
		return nil, err
	}
	if cfg.Kind == verify.Production {
		r, err := Root()
		if err != nil {
			return nil, err
		}
		v.roots = []*x509.Certificate{r}
	}
	return v, nil
}

// Verify implements verify.Verifier.
func (v *Verifier) Verify(in *verify.Input) ([]*verify.Result, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	a, err := gcp.Parse(in.Evidence)
	if err != nil {
		return nil, verify.Deny(ReasonMalformed, component, "evidence", err)
	}
	if err := v.cfg.Unproven(component, Unproven); err != nil {
		return nil, err
	}
	res, err := v.cfg.Kind.NewResult(component, gcp.WireName, verify.ClassCPU, a.Simulation)
	if err != nil {
		return nil, err
	}
	res.Unproven = []string{Unproven}
	if in.Initdata != nil {
		return nil, verify.Mismatch(verify.ReasonInitdataUnbound, component, "initdata", "a document", "none: the vTPM is the host's", "tee/gcp/SPEC.md")
	}
	field, err := v.hardware(a, in.Now, res)
	if err != nil {
		return nil, err
	}
	if err := verify.CheckReportData(component, field, in, res); err != nil {
		return nil, err
	}
	if err := v.vtpm(a, in, field, res); err != nil {
		return nil, err
	}
	return []*verify.Result{res}, nil
}

// hardware checks the hardware's report and gives its report data.
func (v *Verifier) hardware(a *gcp.Attestation, now time.Time, res *verify.Result) ([]byte, error) {
	if a.SNP != nil {
		var certs []snp.Cert
		for _, c := range []snp.Cert{{Type: snp.CertVCEK, Data: a.SNP.VCEK}, {Type: snp.CertVLEK, Data: a.SNP.VLEK}, {Type: snp.CertASK, Data: a.SNP.ASK}, {Type: snp.CertARK, Data: a.SNP.ARK}} {
			if len(c.Data) > 0 {
				certs = append(certs, c)
			}
		}
		r, err := v.snp.Verify(a.SNP.Report, certs, now, res)
		if err != nil {
			return nil, err
		}
		res.Claims["hardware"] = snp.WireName
		maps.Copy(res.Claims, snpverifier.Claims(r))
		delete(res.Claims, "init_data") // Google's machines have none
		return r.ReportData[:], nil
	}
	q, err := tdxverifier.VerifyQuote(v.tdx, component, a.TDX, now, res)
	if err != nil {
		return nil, err
	}
	res.Claims["hardware"] = "tdx"
	maps.Copy(res.Claims, tdxverifier.Claims(q, nil))
	delete(res.Claims, "init_data")
	return q.TD.ReportData[:], nil
}

// vtpm checks the host's word on the measured boot.
func (v *Verifier) vtpm(a *gcp.Attestation, in *verify.Input, field []byte, res *verify.Result) error {
	key, err := tpmverifier.ParseAttestationKey(a.AKPub)
	if err != nil {
		return err
	}
	cert, err := v.checkCertificate(a, key, in.Now)
	if err != nil {
		return err
	}
	res.Claims["ak_certificate_subject"] = cert.Subject.String()
	res.Checked("vTPM attestation key", cert.Subject.String(), "root of Google's attestation keys")
	if err := checker.VerifySignature(key, a.Quote.Signature, a.Quote.Message); err != nil {
		return err
	}
	q, err := checker.Parse(a.Quote.Message)
	if err != nil {
		return err
	}
	want := in.ReportData
	if in.InsecureSkipReportData { // both must at least be of one session
		want = field
		if bytes.Equal(initdata.Fit(q.ExtraData, len(field)), field) {
			want = q.ExtraData
		}
	}
	if !bytes.Equal(q.ExtraData, want) {
		return verify.Mismatch(verify.ReasonReportData, component, "qualifying data of the vTPM's quote", hex.EncodeToString(q.ExtraData), hex.EncodeToString(want), "nonce and TEE key of this session")
	}
	all := make([]int, gcp.PCRCount)
	for i := range all {
		all[i] = i
	}
	pcrs, err := tpmquote.Values(&checker, q, a.Quote.PCRs[:], all)
	if err != nil {
		return err
	}
	values := make(map[string]any, len(pcrs))
	for i, p := range pcrs {
		values[fmt.Sprintf("pcr%02d", i)] = hex.EncodeToString(p[:])
	}
	res.Claims["tpm"] = values
	res.Checked("PCR values", fmt.Sprintf("%d registers of the SHA-256 bank", len(pcrs)), "quote of the host's vTPM")
	return nil
}

// checkCertificate checks that a certificate of Google's is for the key.
func (v *Verifier) checkCertificate(a *gcp.Attestation, key any, now time.Time) (*x509.Certificate, error) {
	untrusted := func(err error) (*x509.Certificate, error) {
		return nil, verify.Deny(ReasonAKUntrusted, component, "akCert", err)
	}
	cert, err := x509.ParseCertificate(a.AKCert)
	if err != nil {
		return untrusted(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return untrusted(err)
	}
	if !bytes.Equal(spki, cert.RawSubjectPublicKeyInfo) {
		return untrusted(errors.New("for another key than akPub"))
	}
	if cert.IsCA || cert.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return untrusted(errors.New("not a certificate for signatures"))
	}
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range v.roots {
		roots.AddCert(c)
	}
	for _, der := range a.Intermediates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return untrusted(err)
		}
		inter.AddCert(c)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return untrusted(err)
	}
	return cert, nil
}

// Root gives Google's root of attestation keys.
func Root() (*x509.Certificate, error) {
	b, _ := pem.Decode([]byte(rootPEM))
	if b == nil {
		return nil, errors.New("embedded root: no PEM")
	}
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("embedded root: %w", err)
	}
	return c, nil
}
