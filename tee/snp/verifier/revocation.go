package verifier

import (
	"crypto/x509"
	"errors"
	"math/big"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/verify"
)

// checkRevocation reads the root's revocation list: AMD's lists name signing
// keys and roots (all VCEKs have serial number zero). A production verifier
// wants the list; a simulated one obeys it if it is there.
func (v *Reports) checkRevocation(c *chain, now time.Time) (source string, err error) {
	origin := CRLOrigin(c.product, c.vlek)
	if v.cfg.Kind == verify.InsecureSimulated {
		origin = SimulatedCRLOrigin(c.anchor.ark)
	}
	item, err := v.cfg.Item(v.component, origin)
	if err != nil {
		if v.cfg.InsecureSkipRevocation || v.cfg.Kind == verify.InsecureSimulated {
			return "", nil
		}
		return "", err
	}
	crl, err := v.crl(item, c.anchor.ark)
	if err != nil {
		return "", err
	}
	if now.Before(crl.ThisUpdate) || crl.NextUpdate.IsZero() || now.After(crl.NextUpdate) {
		return "", verify.Mismatch(verify.ReasonCollateralExpired, v.component, "revocation list "+origin, now.UTC().Format(time.RFC3339),
			crl.ThisUpdate.UTC().Format(time.RFC3339)+" to "+crl.NextUpdate.UTC().Format(time.RFC3339), "the list")
	}
	for _, x := range []struct {
		name   string
		serial *big.Int
	}{{"ASK", c.ask.SerialNumber}, {"ARK", c.anchor.ark.SerialNumber}} {
		for _, r := range crl.RevokedCertificateEntries {
			if r.SerialNumber.Cmp(x.serial) == 0 {
				return "", &denial.Denial{
					Reason: ReasonCertificateRevoked, Component: v.component, Claim: x.name + " certificate", Measured: "serial number " + x.serial.Text(16),
					Expected: "not in the revocation list", Source: origin,
				}
			}
		}
	}
	return origin, nil
}

// crlKey names a parsed list: a collateral item never changes.
type crlKey struct {
	item *collateral.Item
	root *x509.Certificate
}

const maxCRL = 64 << 10

func (v *Reports) crl(item *collateral.Item, root *x509.Certificate) (*x509.RevocationList, error) {
	key := crlKey{item, root}
	if l, ok := v.crls.get(key); ok {
		return l, nil
	}
	claim := "revocation list " + item.Origin
	if len(item.Body) > maxCRL {
		return nil, v.deny(verify.ReasonCollateralMalformed, claim, errors.New("too long"))
	}
	l, err := x509.ParseRevocationList(item.Body)
	if err != nil {
		return nil, v.deny(verify.ReasonCollateralMalformed, claim, err)
	}
	if l.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return nil, v.deny(verify.ReasonCollateralUntrusted, claim, errors.New("signed with "+l.SignatureAlgorithm.String()))
	}
	if err := l.CheckSignatureFrom(root); err != nil {
		return nil, v.deny(verify.ReasonCollateralUntrusted, claim, err)
	}
	v.crls.put(key, l)
	return l, nil
}
