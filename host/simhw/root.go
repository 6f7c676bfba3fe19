package simhw

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
)

// spki is the hex SHA-256 of a certificate's SubjectPublicKeyInfo; "" for none.
func spki(der []byte) string {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return ""
	}
	h := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(h[:])
}
