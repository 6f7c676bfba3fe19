package verifier

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/snp"
)

const kds = "https://kdsintf.amd.com/"

// VCEKOrigin names the certificate of a chip's key at a TCB version: product, the
// chip id of the report, TCB version (the reported one).
func VCEKOrigin(product string, chipID [64]byte, t snp.TCB) string {
	id, fmc := chipID[:], ""
	if product == Turin {
		id = chipID[:turinHWID]
	}
	if t.WithFMC {
		fmc = fmt.Sprintf("fmcSPL=%02d&", t.FMC)
	}
	return fmt.Sprintf("%svcek/v1/%s/%s?%sblSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d",
		kds, product, hex.EncodeToString(id), fmc, t.Bootloader, t.TEE, t.SNP, t.Microcode)
}

// CRLOrigin names the revocation list of a product line: for the chain of VCEKs,
// or of VLEKs.
func CRLOrigin(product string, vlek bool) string {
	kind := "vcek"
	if vlek {
		kind = "vlek"
	}
	return kds + kind + "/v1/" + product + "/crl"
}

// SimulatedCRLOrigin names the revocation list of a simulated root.
func SimulatedCRLOrigin(root *x509.Certificate) string {
	return "https://" + spkiFingerprint(root) + ".simhw.invalid/crl"
}

// Origins lists what the verifier will ask for to judge evidence, for whoever
// fetches ahead. Evidence that cannot be read, or says that it is simulated,
// needs nothing of a vendor.
func Origins(evidence []byte) []string {
	e, err := snp.Parse(evidence)
	if err != nil || e.Simulation != "" {
		return nil
	}
	vlek := e.Report.KeyInfo.SigningKey() == snp.KeyVLEK
	products := productsOf(e.Report)
	var out []string
	if have := hasLeaf(e.Certs, vlek); !have && !vlek {
		for _, p := range products {
			out = append(out, VCEKOrigin(p, e.Report.ChipID, e.Report.ReportedTCB))
		}
	}
	for _, p := range products {
		out = append(out, CRLOrigin(p, vlek))
	}
	return out
}

func hasLeaf(certs []snp.Cert, vlek bool) bool {
	for _, c := range certs {
		if c.Type == leafType(vlek) {
			return true
		}
	}
	return false
}

func leafType(vlek bool) string {
	if vlek {
		return snp.CertVLEK
	}
	return snp.CertVCEK
}

// productOf tells the product line of a processor; "": not known here.
func productOf(c snp.CPUID) string {
	switch m := c.Model; {
	case c.Family == 0x19 && m <= 0x0F:
		return Milan
	case c.Family == 0x19 && (m >= 0x10 && m <= 0x1F || m >= 0xA0 && m <= 0xAF):
		return Genoa
	case c.Family == 0x1A && m <= 0x11:
		return Turin
	}
	return ""
}

// productsOf lists the product lines that the report may be of: one, or in
// version 2, which names no processor, those with its TCB layout.
func productsOf(r *snp.Report) []string {
	switch {
	case r.CPU != nil:
		if p := productOf(*r.CPU); p != "" {
			return []string{p}
		}
		return nil
	case r.ReportedTCB.WithFMC:
		return []string{Turin}
	}
	return []string{Milan, Genoa}
}

// Reasons of denial.
const (
	ReasonMalformed            denial.Reason = "snp-evidence-malformed"
	ReasonVersion              denial.Reason = "snp-report-version"
	ReasonSigningKey           denial.Reason = "snp-signing-key"
	ReasonProduct              denial.Reason = "snp-product-mismatch"
	ReasonCertificateMissing   denial.Reason = "snp-certificate-missing"
	ReasonCertificateMalformed denial.Reason = "snp-certificate-malformed"
	ReasonCertificateExpired   denial.Reason = "snp-certificate-expired"
	ReasonCertificateRevoked   denial.Reason = "snp-certificate-revoked"
	ReasonChainUntrusted       denial.Reason = "snp-chain-untrusted"
	ReasonTCBMismatch          denial.Reason = "snp-tcb-mismatch"
	ReasonChipID               denial.Reason = "snp-chip-id-mismatch"
	ReasonSignature            denial.Reason = "snp-report-signature"
	ReasonVMPL                 denial.Reason = "snp-vmpl"
	ReasonPolicy               denial.Reason = "snp-policy-malformed"
	ReasonTCBOrder             denial.Reason = "snp-tcb-inconsistent"
)
