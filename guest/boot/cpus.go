package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const cpusDir = "/sys/devices/system/cpu"

// StartCPUs starts the machine's other CPUs, which launch.CPUsCmdline leaves
// where they are. A CPU that does not start is an error and no more: the
// guest can do with the others.
//
// An emulated machine that is still setting up its devices loses interrupts of
// CPUs that run already: docs/known-gaps.md.
func StartCPUs() error { return startCPUs(cpusDir) }

func startCPUs(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "cpu[0-9]*", "online"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && strings.TrimSpace(string(b)) == "0" {
			err = os.WriteFile(f, []byte("1"), 0)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("starting a CPU: %w", err))
		}
	}
	return errors.Join(errs...)
}
