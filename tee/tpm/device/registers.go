package device

import (
	"fmt"

	"github.com/google/go-tpm/tpm2/transport"
)

// Resettable reports whether software may set a PCR back without a reboot: the
// debug register and the one for applications (TCG PC Client Platform TPM
// Profile, table of PCR attributes).
func Resettable(pcr int) bool { return pcr == 16 || pcr == 23 }

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
