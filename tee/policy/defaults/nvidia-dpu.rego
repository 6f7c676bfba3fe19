# Coffer's default appraisal of NVIDIA DPUs. See cpu.rego for the values.
package policy

import rego.v1

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": 0,
	"instance-identity": 0,
	"file-system": 0,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

default executables := 33

default hardware := 97

dpu := object.get(input, "nvidiadpu", {})

executables := 3 if {
	dpu.accumulated_fwid in query_reference_value("dpu_accumulated_fwid")
}

# The chain to the configured root is the verifier's; the owner names the devices.
hardware := 2 if {
	dpu.device_class
	dpu.device_serial in query_reference_value("dpu_device_serial")
}
