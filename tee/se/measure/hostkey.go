package measure

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/tee/se/verifier"
)

// maxDocument is the largest host key document, in bytes.
const maxDocument = 64 << 10

// HostKeyHash gives the hash (32 bytes) that names the host key of a document: an
// X.509 certificate on P-521, PEM or DER. The chain to IBM is not checked here.
func HostKeyHash(document []byte) ([]byte, error) {
	if len(document) > maxDocument {
		return nil, fmt.Errorf("host key document: %d bytes, at most %d", len(document), maxDocument)
	}
	if b, rest := pem.Decode(document); b != nil {
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("host key document: PEM block %q, not CERTIFICATE", b.Type)
		}
		if next, _ := pem.Decode(rest); next != nil {
			return nil, errors.New("host key document: several PEM blocks, one document has one")
		}
		document = b.Bytes
	}
	c, err := x509.ParseCertificate(document)
	if err != nil {
		return nil, fmt.Errorf("host key document: %w", err)
	}
	k, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("host key document: %s key, not one on P-521", c.PublicKeyAlgorithm)
	}
	point, err := k.ECDH()
	if err != nil {
		return nil, fmt.Errorf("host key document: %w", err)
	}
	h, err := verifier.HostKeyHash(point)
	if err != nil {
		return nil, fmt.Errorf("host key document: %w", err)
	}
	return h, nil
}
