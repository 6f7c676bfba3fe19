package sim

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"

	"github.com/cofferproject/coffer/api/simhw"
)

// MaxKeyID is the most of a key id, in bytes.
const MaxKeyID = 32

// SetFuses gives the CPU the secret of which it makes keys. Without one there are none.
func (e *Enclave) SetFuses(secret []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fuses = secret
}

// SealingKey is EGETKEY for a key of the name SEAL (SDM volume 3D, EGETKEY): what
// keyPolicy names goes into the key, and product, security version and attributes in any
// case. The hardware's derivation is CMAC; here it is HMAC-SHA256 cut to 128 bits.
func (e *Enclave) SealingKey(keyPolicy byte, keyID []byte) ([]byte, error) {
	const known = simhw.KeyPolicyMREnclave | simhw.KeyPolicyMRSigner | simhw.KeyPolicyConfigID
	switch {
	case keyPolicy&^known != 0 || keyPolicy&(simhw.KeyPolicyMREnclave|simhw.KeyPolicyMRSigner) == 0:
		return nil, errors.New("sgx simulator: a sealing key by no policy, or an unknown one")
	case len(keyID) > MaxKeyID:
		return nil, errors.New("sgx simulator: a longer key id than EGETKEY's")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.fuses) == 0 {
		return nil, errors.New("sgx simulator: this CPU has no sealing keys")
	}
	m := hmac.New(sha256.New, e.fuses)
	m.Write([]byte{'S', 'E', 'A', 'L', keyPolicy, byte(len(keyID))})
	m.Write(keyID)
	m.Write(e.body.ISVProdID[:])
	m.Write(e.body.ISVSVN[:])
	m.Write(e.body.Flags[:])
	if keyPolicy&simhw.KeyPolicyMREnclave != 0 {
		m.Write(e.body.MREnclave[:])
	}
	if keyPolicy&simhw.KeyPolicyMRSigner != 0 {
		m.Write(e.body.MRSigner[:])
	}
	if keyPolicy&simhw.KeyPolicyConfigID != 0 {
		m.Write(e.body.ConfigID[:])
	}
	return m.Sum(nil)[:simhw.SealingKeySize], nil
}
