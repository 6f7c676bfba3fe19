package mutations

import (
	"crypto/x509"
	"crypto/x509/pkix"
)

// What no verifier may pass over in a revocation list (RFC 5280, 5.2 and 5.3).

func criticalList(l *x509.RevocationList) {
	l.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
}

func criticalEntry(l *x509.RevocationList) {
	for i := range l.RevokedCertificateEntries {
		l.RevokedCertificateEntries[i].ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
	}
}

// indirectList has an issuing distribution point with indirectCRL TRUE.
func indirectList(l *x509.RevocationList) {
	l.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 3, 0x84, 1, 0xff}}}
}
