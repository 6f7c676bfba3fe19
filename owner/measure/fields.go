package measure

import (
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/snp/firmware"
)

// Input names one input of a launch, for people and in JSON.
type Input string

// Inputs of a launch.
const (
	Firmware    Input = "firmware"
	Kernel      Input = "kernel"
	Initrd      Input = "initrd"
	Cmdline     Input = "command line"
	VCPUs       Input = "vCPU count"
	CPUModel    Input = "vCPU model"
	Memory      Input = "memory"
	VMM         Input = "VMM"
	SEVFeatures Input = "SEV features"
	// Initdata is in a register of its own, and the trustee names it.
	Initdata Input = "initdata"
)

// field is a register whose value the inputs of a launch decide, all of them and
// nothing else.
type field struct {
	claim     string // path of the claim below the TEE's, as a finding shows it
	reference string // name of the reference value
	of        []Input
}

// fields lists the registers by the TEE's wire name. TestFields changes each input
// and holds this table against what is computed.
var fields = map[string][]field{
	"snp": {{"measurement", "snp_launch_measurement", []Input{Firmware, Kernel, Initrd, Cmdline, VCPUs, CPUModel, VMM, SEVFeatures}}},
	"tdx": {
		{"quote.body.mr_td", "mr_td", []Input{Firmware}},
		{"quote.body.rtmr_0", "rtmr_0", []Input{Firmware, VCPUs, Memory}},
		{"quote.body.rtmr_1", "rtmr_1", []Input{Kernel}},
		{"quote.body.rtmr_2", "rtmr_2", []Input{Initrd, Cmdline}},
	},
	"cca": {{"realm.cca-realm-initial-measurement", "cca_realm_initial_measurement", []Input{Kernel, Initrd, Cmdline, VCPUs, Memory}}},
	// Of a process TEE: of an enclave that was signed and not simulated nothing is known.
	"sgx": {{"body.mr_enclave", "sgx_mr_enclave", []Input{Kernel, Initrd, Cmdline, VCPUs, Memory}}},
	"nitro": {
		{"pcrs.pcr0", "nitro_pcr0", []Input{Kernel, Initrd, Cmdline}},
		{"pcrs.pcr1", "nitro_pcr1", []Input{Kernel, Initrd, Cmdline}},
	},
	"az-snp-vtpm": {
		{"measurement", "measurement", []Input{Firmware, CPUModel}},
		{"tpm.pcr11", "snp_pcr11", []Input{Kernel, Initrd, Cmdline}},
	},
}

// LaunchValue reports whether a reference value of that name is one of a register
// that the inputs of a launch decide, or of what the log says of one.
func LaunchValue(tee, name string) bool {
	return slices.ContainsFunc(fields[tee], func(f field) bool { return f.reference == name }) || tee == "tdx" && strings.HasPrefix(name, "tdvfkernel")
}

// at gives the claim's value, "" if it is not there as text.
func (f *field) at(claims map[string]any) string {
	var v any = claims
	for _, part := range strings.Split(f.claim, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return ""
		}
		v = m[part]
	}
	s, _ := v.(string)
	return s
}

// gives reports whether reference values say anything of the field, and whether
// they accept value: a list of what is accepted, or that one value.
func (f *field) gives(values map[string]any, value string) (known, accepted bool) {
	v, ok := values[f.reference]
	if !ok {
		return false, false
	}
	if l, ok := v.([]any); ok {
		return true, slices.Contains(l, any(value))
	}
	return true, v == any(value)
}

// same reports whether two launches are the same in what a measurement sees of an
// input.
func same(what Input, a, b *launch.Inputs) bool {
	switch what {
	case Firmware:
		return a.Firmware == b.Firmware
	case Kernel:
		return a.Kernel == b.Kernel
	case Initrd:
		return a.Initrd == b.Initrd
	case Cmdline:
		return a.Cmdline == b.Cmdline
	case VCPUs:
		return a.VCPUs == b.VCPUs
	case Memory:
		return a.MemoryMiB == b.MemoryMiB
	case VMM:
		return a.VMM == b.VMM
	case SEVFeatures:
		return a.SEVFeatures == b.SEVFeatures
	case CPUModel:
		// Of a model its CPUID signature is measured, which several share.
		x, errX := firmware.Signature(a.CPUModel)
		y, errY := firmware.Signature(b.CPUModel)
		return a.CPUModel == b.CPUModel || errX == nil && errY == nil && x == y
	}
	return false
}
