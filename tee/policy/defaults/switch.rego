# Coffer's default appraisal of NVLink switches. See cpu.rego for the values.
package policy

import rego.v1

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": configuration,
	"instance-identity": 0,
	"file-system": 0,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

default executables := 33

default hardware := 97

default configuration := 36

# The firmware is what its signed reference manifest says.
executables := 3 if {
	input.nvidia
	chain := input.nvidia["x-nvidia-switch-bios-rim-cert-chain"]
	trusted(chain)
	every step in ["fetched", "schema-validated", "signature-verified", "version-match", "measurements-available"] {
		input.nvidia[concat("-", ["x-nvidia-switch-bios-rim", step])] == true
	}
	input.nvidia.measres in {"success", "comparison-successful"}
}

# Not revoked: a responder said so, or a revocation list that Coffer's verifier
# had at hand.
trusted(chain) if {
	chain["x-nvidia-cert-status"] == "valid"
	chain["x-nvidia-cert-ocsp-status"] == "good"
}

trusted(chain) if {
	chain["x-nvidia-cert-status"] == "valid"
	chain["coffer-revocation"] == "crl"
}

hardware := 2 if {
	input.nvidia
	trusted(input.nvidia["x-nvidia-switch-attestation-report-cert-chain"])
	input.nvidia["x-nvidia-switch-attestation-report-cert-chain-fwid-match"] == true
	input.nvidia["x-nvidia-switch-attestation-report-parsed"] == true
	input.nvidia["x-nvidia-switch-attestation-report-signature-verified"] == true
	input.nvidia["x-nvidia-switch-arch-check"] == true
}

configuration := 2 if {
	closed
	known_versions
}

configuration := 3 if {
	closed
	not known_versions
}

closed if {
	input.nvidia.secboot == true
	input.nvidia.dbgstat == "disabled"
}

known_versions if {
	input.nvidia["x-nvidia-switch-bios-version"] in query_reference_value("allowed_switch_bios_versions")
}
