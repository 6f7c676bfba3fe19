package verifier

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/tpm"
)

// appraiseInitdata explains PCR 8: zero, then one extend with the digest of the
// document that came along, or with the fixed value for "no device".
func appraiseInitdata(in Input, r *Result) error {
	plain := in.Initdata
	measured := r.PCRs[refvalue.PCRInitdata]
	none := initdata.NoneDigest()
	if plain == nil {
		if measured == extendOnce(none) || in.skipInitdata {
			return nil
		}
		return &denial.Denial{
			Reason: ReasonInitdataUnavailable, Component: Component, Claim: "PCR 8: initdata", Measured: hex.EncodeToString(measured[:]),
			Expected: "the document that was measured", Source: "attestation request",
		}
	}
	sum := sha256.Sum256(plain)
	if want := extendOnce(sum); measured != want {
		d := &denial.Denial{
			Reason: ReasonInitdataMismatch, Component: Component, Claim: "PCR 8: initdata", Measured: hex.EncodeToString(measured[:]),
			Expected: hex.EncodeToString(want[:]), Source: "one extend of the sent document's SHA-256 " + hex.EncodeToString(sum[:]),
		}
		if measured == extendOnce(none) {
			d.Reason, d.Detail = ReasonInitdataUnexpected, "the guest was started without initdata"
		}
		return d
	}
	doc, err := initdata.Parse(plain)
	if err == nil {
		err = doc.CheckAlgorithm(tpm.WireName)
	}
	if err != nil {
		return deny(ReasonInitdataMalformed, "initdata", err)
	}
	r.InitdataDigest, r.Initdata = sum[:], doc
	return nil
}

// extendOnce gives a register that was zero and was extended with one digest.
func extendOnce(digest [32]byte) [32]byte {
	var zero [32]byte
	return sha256.Sum256(append(zero[:], digest[:]...))
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
		c["ek_fingerprint"], c["ek_root"] = r.EKFingerprint, r.EKRoot
	}
	if r.Simulation != "" {
		c["simulation"] = r.Simulation
	}
	if r.InitdataDigest != nil {
		c["initdata_digest"] = hex.EncodeToString(r.InitdataDigest)
	}
	return c
}

// SPKIFingerprint gives the fingerprint by which namespaces name roots.
func SPKIFingerprint(c *x509.Certificate) string { return fingerprint(c.RawSubjectPublicKeyInfo) }
