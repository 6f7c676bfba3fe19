package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// How often a TPM's driver is asked again, and how long apart.
const (
	tpmTries = 10
	tpmPause = 500 * time.Millisecond
)

// ProbeTPM has the kernel's driver look again at a TPM that the firmware's tables name
// and the kernel got no answer from in its own short time: a software TPM on a machine
// without a free processor takes longer. The host decides about the answer anyway; no
// TPM at all is for others to judge.
func ProbeTPM() error { return probeTPM("/", tpmTries, tpmPause) }

func probeTPM(root string, tries int, pause time.Duration) error {
	// The tables' name of a TPM 2.0 (TCG ACPI specification).
	devices, err := filepath.Glob(filepath.Join(root, "sys/bus/acpi/devices/MSFT0101:*"))
	if err != nil {
		return err
	}
	for _, d := range devices {
		for range tries {
			if bound(root, d) {
				break
			}
			// It is of this driver or of none here: a TPM with registers (TIS) is a
			// platform device, which the firmware of ours does not name.
			err = os.WriteFile(filepath.Join(root, "sys/bus/acpi/drivers/tpm_crb/bind"), []byte(filepath.Base(d)), 0)
			if err == nil || errors.Is(err, os.ErrNotExist) {
				break
			}
			time.Sleep(pause)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("the TPM does not answer its driver: %w", err)
		}
	}
	return nil
}

// bound reports whether the device has its driver.
func bound(root, device string) bool {
	if _, err := os.Stat(filepath.Join(device, "driver")); err == nil {
		return true
	}
	_, err := os.Stat(filepath.Join(root, "dev/tpm0"))
	return err == nil
}
