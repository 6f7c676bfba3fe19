package boot

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// initdataPCR is the register that carries the initdata digest.
const initdataPCR = 8

// tpmDevice is the kernel's TPM.
const tpmDevice = "/dev/tpm0"

// TPM is the Register of a TPM 2.0.
type TPM struct {
	open func() (transport.TPMCloser, error)
}

// FindTPM gives the machine's TPM; nil if it has none.
func FindTPM() *TPM {
	if _, err := os.Stat(tpmDevice); err != nil {
		return nil
	}
	return &TPM{open: func() (transport.TPMCloser, error) { return linuxtpm.Open(tpmDevice) }}
}

// NewTPM gives the Register of a TPM that open opens.
func NewTPM(open func() (transport.TPMCloser, error)) *TPM { return &TPM{open: open} }

// TEE implements Register.
func (t *TPM) TEE() string { return "tpm" }

// BindInitdata checks that PCR 8 is zero and extends it, in the SHA-256 bank.
func (t *TPM) BindInitdata(digest []byte) (err error) {
	tpm, err := t.open()
	if err != nil {
		return fmt.Errorf("opening the TPM: %w", err)
	}
	defer func() { err = errors.Join(err, tpm.Close()) }()
	sel := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(initdataPCR),
	}}}
	r, err := tpm2.PCRRead{PCRSelectionIn: sel}.Execute(tpm)
	if err != nil {
		return fmt.Errorf("reading PCR %d: %w", initdataPCR, err)
	}
	if len(r.PCRValues.Digests) != 1 {
		return fmt.Errorf("reading PCR %d: the TPM has no SHA-256 bank", initdataPCR)
	}
	if v := r.PCRValues.Digests[0].Buffer; len(v) != 32 || !bytes.Equal(v, make([]byte, 32)) {
		return fmt.Errorf("PCR %d is %x, but nothing may have been measured into it before the guest starts", initdataPCR, v)
	}
	_, err = tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(initdataPCR), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}},
	}.Execute(tpm)
	if err != nil {
		return fmt.Errorf("extending PCR %d: %w", initdataPCR, err)
	}
	return nil
}
