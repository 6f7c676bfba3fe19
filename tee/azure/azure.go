// Package azure holds what both sides of the evidence of Azure's confidential
// VMs share: the codec of all published versions and the HCL report, in which
// the paravisor ties its virtual TPM to the hardware's report (SPEC.md; shared
// facts: trustee 4.5 and 4.6).
//
// Subpackages are split by trust step: attester, verifier, sim.
//
// Invariants: every decoder is bounded and never panics; nothing here decides.
//
// Trust zone: guest and trustee.
package azure

// Wire names.
const (
	SNP = "az-snp-vtpm"
	TDX = "az-tdx-vtpm"
)

// PCRCount is the number of registers that evidence lists.
const PCRCount = 24

// Limits, in bytes.
const (
	MaxEvidence = 256 << 10
	MaxReport   = 8 << 10
	MaxCert     = 16 << 10
	MaxQuote    = 32 << 10
	maxField    = 4 << 10
	MaxEntries  = 64 << 10
	maxNote     = 1 << 10
)

// UserDataSize is the size of the report data that goes into the runtime claims.
const UserDataSize = 64

// The vTPM's fixed places, as published.
const (
	// NVReport is the index that holds the HCL report.
	NVReport = 0x01400001
	// NVUserData is the index whose content the paravisor takes into the runtime
	// claims, UserDataSize bytes.
	NVUserData = 0x01400002
	// AKHandle is the attestation key.
	AKHandle = 0x81000003
)

// The metadata service's addresses, as published. It is link-local: the host
// answers, and nothing it says is believed before it is verified.
const (
	// AMDCertificates gives Certificates (GET, header "Metadata: true").
	AMDCertificates = "http://169.254.169.254/metadata/THIM/amd/certification"
	// IntelQuote takes a TDREPORT and gives a quote (POST).
	IntelQuote = "http://169.254.169.254/acc/tdquote"
)

// Certificates is the metadata service's answer for SNP: PEM.
type Certificates struct {
	VCEK  string `json:"vcekCert"`
	Chain string `json:"certificateChain"`
}
