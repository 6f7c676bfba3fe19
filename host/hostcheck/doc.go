// Package hostcheck looks at what a machine has of what each TEE needs: kernel,
// processor, devices, firmware, QEMU. host/vmm asks before it starts anything, so
// that a missing part is one clear error and not a refusal of QEMU's, and
// `coffer-node doctor` prints all of it.
//
// What it finds is a diagnosis and no evidence: whoever owns the machine can make it
// find anything. No finding ever lets a simulated TEE stand in for a real one.
//
// Trust zone: host.
//
// Invariants: it changes nothing on the machine; files are read bounded.
package hostcheck
