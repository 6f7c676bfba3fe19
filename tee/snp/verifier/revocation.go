package verifier

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/internal/crl"
	"github.com/cofferproject/coffer/tee/verify"
)

// checkRevocation reads the root's revocation list: AMD's lists name signing
// keys and roots (all VCEKs have serial number zero). A production verifier
// wants the list; a simulated one obeys it if it is there.
func (v *Reports) checkRevocation(c *chain, now time.Time, res *verify.Result) error {
	origin := CRLOrigin(c.product, c.vlek)
	if v.cfg.Kind == verify.InsecureSimulated {
		origin = SimulatedCRLOrigin(c.anchor.ark)
	}
	item, err := v.cfg.Item(v.component, origin)
	if err != nil {
		switch {
		case v.cfg.Kind == verify.InsecureSimulated:
			res.Checked("revocation", "no list of this simulated root", origin)
		case v.cfg.InsecureSkipRevocation:
			res.Checked("revocation", "not checked: InsecureSkipRevocation", origin)
		default:
			return err
		}
		return nil
	}
	list, err := v.crl(item, c.anchor.ark)
	if err != nil {
		return err
	}
	if now.Before(list.ThisUpdate) || now.After(list.NextUpdate) {
		return verify.Mismatch(verify.ReasonCollateralExpired, v.component, "revocation list "+origin, now.UTC().Format(time.RFC3339),
			list.ThisUpdate.UTC().Format(time.RFC3339)+" to "+list.NextUpdate.UTC().Format(time.RFC3339), "the list")
	}
	for _, x := range []struct {
		name   string
		serial *big.Int
	}{{"ASK", c.ask.SerialNumber}, {"ARK", c.anchor.ark.SerialNumber}} {
		for _, r := range list.RevokedCertificateEntries {
			if r.SerialNumber.Cmp(x.serial) == 0 {
				return &denial.Denial{
					Reason: ReasonCertificateRevoked, Component: v.component, Claim: x.name + " certificate", Measured: "serial number " + x.serial.Text(16),
					Expected: "not in the revocation list", Source: origin,
				}
			}
		}
	}
	res.Checked("revocation", "neither ASK nor ARK is revoked", origin)
	return nil
}

// crlKey names a parsed list by its content and the root that signed it.
type crlKey struct {
	body [sha256.Size]byte
	root *x509.Certificate
}

const maxCRL = 64 << 10

func (v *Reports) crl(item *collateral.Item, root *x509.Certificate) (*x509.RevocationList, error) {
	claim := "revocation list " + item.Origin
	if len(item.Body) > maxCRL {
		return nil, v.deny(verify.ReasonCollateralMalformed, claim, errors.New("too long"))
	}
	key := crlKey{sha256.Sum256(item.Body), root}
	if l, ok := v.crls.Get(key); ok {
		return l, nil
	}
	l, err := crl.Parse(item.Body, root)
	if err != nil {
		return nil, v.deny(crl.ReasonOf(err), claim, err)
	}
	if l.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return nil, v.deny(verify.ReasonCollateralUntrusted, claim, errors.New("signed with "+l.SignatureAlgorithm.String()))
	}
	v.crls.Put(key, l)
	return l, nil
}
