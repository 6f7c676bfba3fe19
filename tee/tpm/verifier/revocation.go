package verifier

import (
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/internal/revocation"
	"github.com/cofferproject/coffer/tee/verify"
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
func (v *Verifier) checkRevocation(chain []*x509.Certificate, in *Input) (EKRevocation, error) {
	out := EKGood
	for i, c := range chain[:len(chain)-1] {
		s, err := v.revocation.Check(c, chain[i+1], v.cfg.Collateral, in.Now)
		for _, o := range s.Missing {
			if in.missing != nil {
				in.missing(verify.Missing{Origin: o, Issuers: chain[i+1:]})
			}
		}
		switch {
		case errors.Is(err, revocation.ErrMissing), err == nil && !s.ByList && !s.ByResponse:
			out = EKAbsent
		case err != nil:
			return "", deny(revocation.ReasonOf(err, ReasonEKRevoked), "EK chain: certificate of "+c.Subject.String()+", serial "+c.SerialNumber.Text(16), err)
		}
	}
	return out, nil
}

// MaxPublished bounds a maker's revocation list, in bytes.
const MaxPublished = 2 << 20

// CheckPublished verifies a maker's revocation list, or an OCSP response, by the chain
// of its issuer that comes with it: what a verifier would refuse is refused here. Which
// roots count is for the namespace whose verifier named the chain, and whether it is
// current for the caller to say.
func CheckPublished(it *collateral.Item) (collateral.Validity, error) {
	if len(it.Body) > MaxPublished {
		return collateral.Validity{}, fmt.Errorf("%d bytes, at most %d", len(it.Body), MaxPublished)
	}
	chain, err := revocation.Issuers(it)
	if err != nil {
		return collateral.Validity{}, err
	}
	return revocation.CheckPublished(it, chain[0])
}
