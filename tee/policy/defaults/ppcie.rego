# Coffer's default appraisal of a protected PCIe fabric: the verifier states it
# only where all devices, each appraised by itself, belong together. See cpu.rego
# for the values.
package policy

import rego.v1

trust_claims := {
	"executables": 0,
	"hardware": 0,
	"configuration": configuration,
	"instance-identity": 0,
	"file-system": 0,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

default configuration := 36

configuration := 2 if {
	input.nvidia
	input.nvidia.gpu_count > 0
	input.nvidia.switch_count > 0
}
