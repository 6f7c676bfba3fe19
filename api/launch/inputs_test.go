package launch

import (
	"strings"
	"testing"
)

func TestInputsValidate(t *testing.T) {
	good := Inputs{TEE: "snp", Firmware: strings.Repeat("0a", 32), Kernel: strings.Repeat("1b", 32), Cmdline: "quiet", VCPUs: 2, CPUModel: "EPYC-v4", MemoryMiB: 512}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Inputs){
		"no TEE":        func(in *Inputs) { in.TEE = "" },
		"long TEE":      func(in *Inputs) { in.TEE = strings.Repeat("a", 65) },
		"short digest":  func(in *Inputs) { in.Kernel = "0a" },
		"upper digest":  func(in *Inputs) { in.Initrd = strings.Repeat("0A", 32) },
		"long digest":   func(in *Inputs) { in.Firmware += "00" },
		"long line":     func(in *Inputs) { in.Cmdline = strings.Repeat("a", MaxCmdline+1) },
		"zero in line":  func(in *Inputs) { in.Cmdline = "a\x00b" },
		"no vCPU":       func(in *Inputs) { in.VCPUs = 0 },
		"no memory":     func(in *Inputs) { in.MemoryMiB = 0 },
		"much memory":   func(in *Inputs) { in.MemoryMiB = 1<<24 + 1 },
		"long model":    func(in *Inputs) { in.CPUModel = strings.Repeat("a", 65) },
		"long VMM":      func(in *Inputs) { in.VMM = strings.Repeat("a", 65) },
		"5000 vCPUs":    func(in *Inputs) { in.VCPUs = 5000 },
		"negative vCPU": func(in *Inputs) { in.VCPUs = -1 },
	} {
		in := good
		change(&in)
		if in.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
