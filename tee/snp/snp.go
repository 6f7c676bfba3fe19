// Package snp holds what both sides of AMD SEV-SNP evidence share: the
// attestation report in its binary form (SEV-SNP firmware ABI, ATTESTATION_REPORT,
// versions 2 to 5), the published evidence JSON, the certificate table that a host
// hands to its guest, and the names under which AMD publishes certificates
// (SPEC.md).
//
// Subpackages are split by trust step: attester gets evidence from the device,
// verifier checks signatures against named roots and appraises fields, measure
// computes expected launch digests, sim plays the hardware.
//
// Invariants: every decoder is bounded and never panics; what is encoded decodes
// to the same; nothing here decides.
//
// Trust zone: guest and trustee.
package snp

// WireName is the TEE's name in the KBS protocol.
const WireName = "snp"

// ReportSize is the size of a report in its binary form, in bytes.
const ReportSize = 1184

// SignedSize is how much of it the signature covers.
const SignedSize = 0x2A0

// Versions of reports that this package can read.
const (
	MinVersion = 2
	MaxVersion = 5
)

// HostDataSize is the size of the launch-bound initdata register.
const HostDataSize = 32

// Limits of evidence, in bytes and entries.
const (
	MaxEvidence = 1 << 20
	MaxCerts    = 16
	MaxCert     = 16 << 10
	maxNote     = 1 << 10
)
