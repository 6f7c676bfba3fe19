package boot

import (
	"errors"
	"fmt"
	"os"

	"github.com/cofferproject/coffer/tee/tpm/device"
)

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
func (TPM) BindInitdata(digest []byte) (err error) {
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

// ShareTPM lets one group use the TPM and read the firmware's event log.
func ShareTPM(gid int) error {
	for _, p := range append([]string{device.EventLogPath}, device.Paths...) {
		err := os.Chown(p, 0, gid)
		if err == nil {
			mode := os.FileMode(0o660)
			if p == device.EventLogPath {
				mode = 0o440
			}
			err = os.Chmod(p, mode)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("sharing the TPM with the key holder: %w", err)
		}
	}
	return nil
}
