package verifier

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/tpm"
	"github.com/cofferproject/coffer/tee/tpm/quote"
)

// appraiseInitdata explains PCR 8.
func appraiseInitdata(in Input, r *Result) error {
	i := quote.Initdata{Component: Component, TEE: tpm.WireName, Plain: in.Initdata, InsecureSkip: in.skipInitdata}
	b, err := i.Check(r.PCRs[refvalue.PCRInitdata])
	r.InitdataDigest, r.Initdata = b.Digest, b.Document
	return err
}

// claims gives the published claims of TEE "tpm", then the additions.
func claims(e *tpm.Evidence, r *Result) map[string]any {
	pcr8 := r.PCRs[refvalue.PCRInitdata]
	c := map[string]any{
		"report_data": hex.EncodeToString(r.reportData),
		"init_data":   hex.EncodeToString(pcr8[:]),
		"ak_public":   base64.StdEncoding.EncodeToString(e.AKPublic),
		"ak_name":     r.AKName,
		"simulated":   r.Simulated,
		"reference": map[string]any{
			"image": r.Reference.Image, "memory_mib": r.Reference.MemoryMiB, "source": r.Reference.Source,
		},
		"events": r.Events,
	}
	for i := range r.quoted { // what was not quoted is not known
		c[fmt.Sprintf("pcr%02d", i)] = hex.EncodeToString(r.PCRs[i][:])
	}
	if r.EKFingerprint != "" {
		c["ek_fingerprint"], c["ek_root"], c["ek_crl"] = r.EKFingerprint, r.EKRoot, string(r.EKRevocation)
	}
	if r.Simulation != "" {
		c["simulation"] = r.Simulation
	}
	quote.EventClaims(c, r.RuntimeEvents)
	if r.InitdataDigest != nil {
		c["initdata_digest"] = hex.EncodeToString(r.InitdataDigest)
	}
	return c
}

// SPKIFingerprint gives the fingerprint by which namespaces name roots.
func SPKIFingerprint(c *x509.Certificate) string { return fingerprint(c.RawSubjectPublicKeyInfo) }
