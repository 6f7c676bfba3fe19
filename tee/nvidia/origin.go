package nvidia

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
)

// SimulatedOrigin is under what simulated devices publish, by their root's key:
// never under a name of NVIDIA's, so that the two cannot stand in for each other.
func SimulatedOrigin(root *x509.Certificate) string {
	sum := sha256.Sum256(root.RawSubjectPublicKeyInfo)
	return "https://" + hex.EncodeToString(sum[:16]) + ".simhw.invalid"
}
