package launch

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// Inputs are what a launch was measured from, by content: what a Spec names by
// path is here by digest. Reference values carry them, so that who reads a
// refusal learns which input is another one. They prove nothing; whoever shows
// them computes the measurement from them anew.
type Inputs struct {
	TEE string `json:"tee"` // a TEE
	// Firmware is what the TEE measures: hex SHA-256, as Kernel and Initrd; "": none.
	Firmware  string `json:"firmware,omitempty"`
	Kernel    string `json:"kernel,omitempty"`
	Initrd    string `json:"initrd,omitempty"`
	Cmdline   string `json:"cmdline"`
	VCPUs     int    `json:"vcpus"`
	CPUModel  string `json:"cpu_model,omitempty"` // of TEEs that measure one
	MemoryMiB int    `json:"memory_mib"`
	// VMM and SEVFeatures are those of SNPParams; "" and 0 for their defaults.
	VMM         string `json:"vmm,omitempty"`
	SEVFeatures uint64 `json:"sev_features,omitempty"`
}

// Limits of Inputs. Linux on x86-64 takes 2048 bytes of command line.
const (
	MaxCmdline    = 4 << 10 // bytes
	maxInputsText = 64
)

var sha256RE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{64}$`) })

// Validate reports the first member that is out of bounds.
func (in *Inputs) Validate() error {
	for _, f := range []struct{ name, value string }{{"firmware", in.Firmware}, {"kernel", in.Kernel}, {"initrd", in.Initrd}} {
		if f.value != "" && !sha256RE().MatchString(f.value) {
			return fmt.Errorf("launch inputs: %s: not 64 lower-case hex digits", f.name)
		}
	}
	switch {
	case in.TEE == "" || len(in.TEE) > maxInputsText:
		return errors.New("launch inputs: tee: missing or too long")
	case len(in.Cmdline) > MaxCmdline || strings.ContainsRune(in.Cmdline, 0):
		return fmt.Errorf("launch inputs: cmdline: %d bytes, at most %d, or a zero in it", len(in.Cmdline), MaxCmdline)
	case in.VCPUs < 1 || in.VCPUs > 4096:
		return fmt.Errorf("launch inputs: vcpus: %d out of range", in.VCPUs)
	case in.MemoryMiB < 1 || in.MemoryMiB > 1<<24:
		return fmt.Errorf("launch inputs: memory_mib: %d out of range", in.MemoryMiB)
	case len(in.CPUModel) > maxInputsText || len(in.VMM) > maxInputsText:
		return errors.New("launch inputs: cpu_model or vmm: too long")
	}
	return nil
}
