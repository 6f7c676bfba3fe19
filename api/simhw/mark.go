package simhw

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"
	"strings"
)

// Organization is in the subject of every CA that plays a vendor of simulated
// hardware, so that whoever holds a certificate sees what it is worth.
const Organization = "Coffer simulated hardware: protects nothing"

// marks are how names of simulated vendors' CAs begin, those made before there was
// one Organization included.
var marks = []string{"Coffer simulat", "simulated.aws.nitro-enclaves", "Simulated TPM EK root"}

// Marked says whether a certificate is a simulated vendor's, or was issued by one,
// by its own words. That it is not proves nothing.
func Marked(c *x509.Certificate) bool { return marked(&c.Subject) || marked(&c.Issuer) }

func marked(n *pkix.Name) bool {
	return slices.ContainsFunc(append([]string{n.CommonName}, n.Organization...), func(s string) bool {
		return slices.ContainsFunc(marks, func(m string) bool { return strings.HasPrefix(s, m) })
	})
}
