package verifier

import (
	"crypto/x509"
	"errors"
	"time"

	"github.com/cofferproject/coffer/tee/internal/revocation"
)

// EKRevocation is what is known about the revocation of an endorsement key's
// chain. A revoked one is denied and has no value.
type EKRevocation string

// Values of EKRevocation, and of the claim ek_crl.
const (
	// EKAbsent: nothing speaks of at least one certificate of the chain: its
	// issuer publishes nothing, or what it publishes is not at hand.
	EKAbsent EKRevocation = "absent"
	// EKGood: a list or a response speaks well of every certificate below the root.
	EKGood EKRevocation = "good"
)

// checkRevocation looks for what the makers have published about a chain, leaf
// first. Not every maker publishes, and not everything published is at hand, so
// that this alone denies nothing: a policy says whether it will do. What is at
// hand and speaks against a certificate, or cannot be believed, denies.
func (v *Verifier) checkRevocation(chain []*x509.Certificate, now time.Time) (EKRevocation, error) {
	out := EKGood
	for i, c := range chain[:len(chain)-1] {
		s, err := v.revocation.Check(c, chain[i+1], v.cfg.Collateral, now)
		switch {
		case errors.Is(err, revocation.ErrMissing), err == nil && !s.ByList && !s.ByResponse:
			out = EKAbsent
		case err != nil:
			return "", deny(revocation.ReasonOf(err, ReasonEKRevoked), "EK chain: certificate of "+c.Subject.String()+", serial "+c.SerialNumber.Text(16), err)
		}
	}
	return out, nil
}
