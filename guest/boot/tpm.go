package boot

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cofferproject/coffer/tee/tpm/device"
)

// teeDevices are those of the kernel's TEE drivers.
var teeDevices = []string{"/dev/sev-guest", "/dev/tdx_guest", "/dev/nsm"}

// TPM is the Register of a TPM 2.0: PCR 8 of the SHA-256 bank, which must be zero.
type TPM struct{}

// FindTPM reports whether the machine has a TPM.
func FindTPM() (TPM, bool) {
	for _, p := range device.Paths {
		if _, err := os.Stat(p); err == nil {
			return TPM{}, true
		}
	}
	return TPM{}, false
}

// TEE implements Register.
func (TPM) TEE() string { return "tpm" }

// BindInitdata implements Register.
func (TPM) BindInitdata(digest []byte, _ bool) (err error) {
	if len(digest) != 32 {
		return fmt.Errorf("the digest has %d bytes, not 32", len(digest))
	}
	t, err := device.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	return device.BindInitdata(t, [32]byte(digest))
}

// ShareTEE lets one group use the TEE's devices and read the firmware's event log;
// more names devices beyond those of the kernel's own drivers.
func ShareTEE(gid int, more ...string) error {
	for _, p := range slices.Concat([]string{device.EventLogPath}, device.Paths, teeDevices, more) {
		err := os.Chown(p, 0, gid)
		if err == nil {
			mode := os.FileMode(0o660)
			if p == device.EventLogPath {
				mode = 0o440
			}
			err = os.Chmod(p, mode)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("sharing the TEE with the key holder: %w", err)
		}
	}
	return nil
}
