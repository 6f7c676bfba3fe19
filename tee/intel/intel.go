// Package intel verifies quotes of Intel's DCAP (SGX and TDX alike): the PCK
// chain to Intel's root, revocation lists, QE report and identity, attestation
// key, TCB level (Intel SGX PCK Certificate and CRL Profile 1.5; PCS API v4;
// the order of Intel's Quote Verification Library). SPEC.md lists the steps.
//
// Invariants: a verdict is a pure function of quote, collateral, configuration
// and time; nothing is fetched; what is not there is a denial; signatures over
// collateral and PCK chains are checked once for each set of bytes, validity and
// revocation every time.
//
// Trust zone: trustee and owner; the guest links only package quote.
package intel

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/internal/lru"
	"github.com/cofferproject/coffer/tee/verify"
)

// Component names this verifier in denials.
const Component = "intel-dcap"

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonQuoteMalformed   denial.Reason = "dcap-quote-malformed"
	ReasonQuoteType        denial.Reason = "dcap-quote-type"
	ReasonQuoteSignature   denial.Reason = "dcap-quote-signature"
	ReasonPCKMalformed     denial.Reason = "dcap-pck-malformed"
	ReasonPCKUntrusted     denial.Reason = "dcap-pck-untrusted"
	ReasonPCKExpired       denial.Reason = "dcap-pck-expired"
	ReasonPCKRevoked       denial.Reason = "dcap-pck-revoked"
	ReasonQEReport         denial.Reason = "dcap-qe-report-signature"
	ReasonQEKey            denial.Reason = "dcap-qe-key-mismatch"
	ReasonQEIdentity       denial.Reason = "dcap-qe-identity-mismatch"
	ReasonTCBMismatch      denial.Reason = "dcap-tcb-info-mismatch"
	ReasonTCBUnsupported   denial.Reason = "dcap-tcb-unsupported"
	ReasonTCBRevoked       denial.Reason = "dcap-tcb-revoked"
	ReasonModuleMismatch   denial.Reason = "dcap-tdx-module-mismatch"
	ReasonSignerRevoked    denial.Reason = "dcap-collateral-signer-revoked"
	ReasonCollateralFuture denial.Reason = "dcap-collateral-from-the-future"
)

// Names in Config.AllowUnproven: no outside vector has shown these to be right.
const (
	UnprovenSGXv4     = "sgx-quote-v4"
	UnprovenSGXv5     = "sgx-quote-v5"
	UnprovenTDXv5TD10 = "tdx-quote-v5-td10"
	// UnprovenRelaunch lets status TDRelaunchAdvised through, which else stays
	// the worse OutOfDate.
	UnprovenRelaunch = "tdx-relaunch-status"
)

// rootPEM is Intel's SGX Root CA, from
// https://certificates.trustedservices.intel.com/IntelSGXRootCA.der, also in
// github.com/google/go-tdx-guest/verify; SHA-256 of the DER
// 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3.
const rootPEM = `-----BEGIN CERTIFICATE-----
MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIw
aDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENv
cnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJ
BgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgG
A1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0
aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYT
AlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi7
1OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxFP2sJBK5zlKOB
uzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJ
MEegRaBDhkFodHRwczovL2NlcnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50
ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInzg7SV
Ur9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYI
KoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9CiSDcNoowLuPRLsWGf/Yi7GSX94BgwTwg
AiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI=
-----END CERTIFICATE-----
`

// Root gives Intel's SGX Root CA.
func Root() *x509.Certificate {
	b, _ := pem.Decode([]byte(rootPEM))
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		panic(err) // a constant; a test reads it
	}
	return c
}

// Verifier checks quotes. It is immutable but for its caches, and safe for
// concurrent use.
type Verifier struct {
	cfg    verify.Config
	roots  []*x509.Certificate
	chains *lru.Cache[[32]byte, *pckChain]
	items  *lru.Cache[itemKey, any]
}

// New refuses a configuration that leaves a security choice open.
func New(cfg verify.Config) (*Verifier, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	v := &Verifier{cfg: cfg, chains: lru.New[[32]byte, *pckChain](1024), items: lru.New[itemKey, any](1024)}
	v.roots = []*x509.Certificate{Root()}
	if cfg.Kind == verify.InsecureSimulated {
		for _, r := range cfg.SimulatedRoots {
			if bytes.Equal(r.RawSubjectPublicKeyInfo, v.roots[0].RawSubjectPublicKeyInfo) {
				return nil, errors.New("intel verifier: Intel's root among simulated ones")
			}
		}
		v.roots = cfg.SimulatedRoots
	}
	return v, nil
}

// Verdict is what a quote proves.
type Verdict struct {
	Quote *quote.Quote
	PCK   *PCK
	// Status is the converged TCB status, never StatusRevoked.
	Status Status
	// Claims are the published DCAP claims, platform_instance_id among them.
	Claims   map[string]any
	Checks   []verify.Check
	Unproven []string
}

// AddTo adds what the quote proves to a result: checks, what of them is unproven,
// and claims, for which r must have a map.
func (v *Verdict) AddTo(r *verify.Result) {
	r.Checks = append(r.Checks, v.Checks...)
	for _, u := range v.Unproven {
		if !slices.Contains(r.Unproven, u) {
			r.Unproven = append(r.Unproven, u)
		}
	}
	maps.Copy(r.Claims, v.Claims)
}

// VerifyQuote checks a quote of one TEE type (quote.SGX, quote.TDX) and gives
// what it proves, or a *denial.Denial. Report data, initdata, debug attributes
// and measurements are for the caller to judge.
func (v *Verifier) VerifyQuote(raw []byte, tee uint32, now time.Time) (*Verdict, error) {
	q, err := quote.Parse(raw)
	if err != nil {
		return nil, verify.Deny(ReasonQuoteMalformed, Component, "quote", err)
	}
	r := &Verdict{Quote: q}
	if err := v.checkType(q, tee, r); err != nil {
		return nil, err
	}
	chain, err := v.pckChain(q, now, r)
	if err != nil {
		return nil, err
	}
	r.PCK = chain.pck
	c, err := v.collateral(chain, tee, now, r)
	if err != nil {
		return nil, err
	}
	if err := checkSignatures(q, chain, r); err != nil {
		return nil, err
	}
	t, err := v.evaluate(q, chain, c, r)
	if err != nil {
		return nil, err
	}
	r.Claims = claims(chain, c, t, now)
	return r, nil
}
