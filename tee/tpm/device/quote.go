package device

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// PCRCount is the number of registers that Quote covers.
const PCRCount = 24

// Quote is a signed quote over all registers of the SHA-256 bank.
type Quote struct {
	Message   []byte // TPMS_ATTEST
	Signature tpm2.TPMTSignature
	PCRs      [PCRCount][32]byte
}

// NewQuote quotes with a loaded key. It retries when a register changed between
// quote and read, as PCR 10 may.
func NewQuote(t transport.TPM, key *tpm2.NamedHandle, qualifying []byte) (*Quote, error) {
	all := make([]uint, PCRCount)
	for i := range all {
		all[i] = uint(i)
	}
	for range 5 {
		rsp, err := tpm2.Quote{
			SignHandle:     tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: tpm2.PasswordAuth(nil)},
			QualifyingData: tpm2.TPM2BData{Buffer: qualifying},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect:      Selection(all...),
		}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("quoting: %w", err)
		}
		values, err := ReadPCRs(t, all...)
		if err != nil {
			return nil, err
		}
		q := &Quote{Message: rsp.Quoted.Bytes(), Signature: rsp.Signature}
		h := sha256.New()
		for i := range q.PCRs {
			q.PCRs[i] = values[uint(i)]
			h.Write(q.PCRs[i][:])
		}
		att, err := rsp.Quoted.Contents()
		if err != nil {
			return nil, fmt.Errorf("quoting: %w", err)
		}
		info, err := att.Attested.Quote()
		if err != nil {
			return nil, fmt.Errorf("quoting: %w", err)
		}
		if hmac.Equal(h.Sum(nil), info.PCRDigest.Buffer) {
			return q, nil
		}
	}
	return nil, errors.New("quoting: registers changed between quote and read, five times in a row")
}
