package device

import (
	"fmt"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/tee/attest"
)

// publishedEventPCR is where the published agent puts events by default. It
// belongs to a dynamic launch; a TPM takes nothing for it at locality 0.
const publishedEventPCR = 17

// EventRegister maps the PCR that an event names to the register that takes it:
// refvalue.PCREvents for itself and for the published default, none for any other.
func EventRegister(pcr int) (int, error) {
	if pcr == refvalue.PCREvents || pcr == publishedEventPCR {
		return refvalue.PCREvents, nil
	}
	return 0, fmt.Errorf("PCR %d takes no run-time events, only %d does: %w", pcr, refvalue.PCREvents, attest.ErrUnsupported)
}

// ExtendEvent extends the register that takes run-time events.
func ExtendEvent(t transport.TPM, register int, digest []byte) error {
	if register != refvalue.PCREvents {
		return fmt.Errorf("PCR %d takes no run-time events: %w", register, attest.ErrUnsupported)
	}
	d, err := Digest(digest)
	if err != nil {
		return err
	}
	return Extend(t, refvalue.PCREvents, d)
}

// Digest takes the digest of a run-time event: 32 bytes, as published nothing
// else, since fitting one would let two events share a value.
func Digest(b []byte) ([32]byte, error) {
	if len(b) != 32 {
		return [32]byte{}, fmt.Errorf("extending PCR: digest of %d bytes, the bank takes 32", len(b))
	}
	return [32]byte(b), nil
}

// ReadPCR reads one register of the SHA-256 bank.
func ReadPCR(t transport.TPM, pcr int) ([]byte, error) {
	if pcr < 0 || pcr > 23 {
		return nil, fmt.Errorf("reading PCR %d: no such register", pcr)
	}
	m, err := ReadPCRs(t, uint(pcr))
	if err != nil {
		return nil, err
	}
	v, ok := m[uint(pcr)]
	if !ok {
		return nil, fmt.Errorf("reading PCR %d: the TPM gave no value", pcr)
	}
	return v[:], nil
}
