# Coffer's default appraisal of GPUs. See cpu.rego for the values.
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

# Driver and VBIOS are what their signed reference manifests say.
executables := 3 if {
	input.nvidia
	manifest("driver")
	manifest("vbios")
	input.nvidia.measres in {"success", "comparison-successful"}
}

manifest(part) if {
	rim := sprintf("x-nvidia-gpu-%s-rim", [part])
	chain := input.nvidia[concat("", [rim, "-cert-chain"])]
	trusted(chain)
	every step in ["fetched", "schema-validated", "signature-verified", "version-match", "measurements-available"] {
		input.nvidia[concat("-", [rim, step])] == true
	}
}

# Where no manifest was at hand: measurements that the owner has registered, all
# of them.
executables := 4 if {
	input.nvidia
	not input.nvidia.measres
	count(input.nvidia.measurements) > 0
	every index, value in input.nvidia.measurements {
		value in query_reference_value(sprintf("nvidia_gpu_measurement_%s", [index]))
	}
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
	trusted(input.nvidia["x-nvidia-gpu-attestation-report-cert-chain"])
	input.nvidia["x-nvidia-gpu-attestation-report-cert-chain-fwid-match"] == true
	input.nvidia["x-nvidia-gpu-attestation-report-parsed"] == true
	input.nvidia["x-nvidia-gpu-attestation-report-signature-verified"] == true
	input.nvidia["x-nvidia-gpu-arch-check"] == true
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
	input.nvidia["x-nvidia-gpu-vbios-version"] in query_reference_value("allowed_vbios_versions")
	input.nvidia["x-nvidia-gpu-driver-version"] in query_reference_value("allowed_driver_versions")
}

# A sample proves nothing; an insecure switch allows it.
hardware := 2 if {
	input.sampledevice
	input.sampledevice.svn in query_reference_value("device_svn")
}

executables := 3 if {
	input.sampledevice
	input.sampledevice.launch_digest in query_reference_value("device_launch_digest")
}

configuration := 2 if {
	input.sampledevice
	input.sampledevice.debug == false
}
