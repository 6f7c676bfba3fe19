package simhw

// Bits of OpSealingKey's argument: KEYPOLICY of the SDM's EGETKEY.
const (
	KeyPolicyMREnclave byte = 1 << 0
	KeyPolicyMRSigner  byte = 1 << 1
	KeyPolicyConfigID  byte = 1 << 3 // of enclaves with KSS
)

// SealingKeySize is the size of a key, in bytes.
const SealingKeySize = 16
