# Coffer's default appraisal of Hygon DCUs. See cpu.rego for the values.
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

executables := 3 if {
	input.hygondcu
	input.hygondcu.body.measure in query_reference_value("dcu_measure")
}

# The chain to the maker's root is the verifier's; the owner names the devices.
hardware := 2 if {
	input.hygondcu
	input.hygondcu.body.chip_id in query_reference_value("dcu_chip_id")
}
