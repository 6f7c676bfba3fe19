package boot

import (
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/cofferproject/coffer/tee/tpm/device"
)

// VTPM is the Register of a TEE whose initdata register is PCR 8 of a TPM that
// vouches for it, such as a paravisor's.
type VTPM struct {
	Name   string // wire name of the TEE
	TPM    transport.TPM
	Device io.Closer // closed by Close; nil: nothing
}

// TEE implements Register.
func (v *VTPM) TEE() string { return v.Name }

// BindInitdata implements Register.
func (v *VTPM) BindInitdata(digest []byte, _ bool) error {
	if len(digest) != 32 {
		return fmt.Errorf("the digest has %d bytes, not 32", len(digest))
	}
	return device.BindInitdata(v.TPM, [32]byte(digest))
}

// Close gives the device back.
func (v *VTPM) Close() error {
	if v.Device == nil {
		return nil
	}
	return v.Device.Close()
}
