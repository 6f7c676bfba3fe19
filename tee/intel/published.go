package intel

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/internal/crl"
	"github.com/cofferproject/coffer/tee/verify"
)

// Where Intel publishes.
const (
	PCS          = intelAPI
	Certificates = intelCertificates
)

// MaxPublished is the most bytes of anything that Intel publishes.
const MaxPublished = maxCRL

func published() origins { return originsFor(verify.Production, "") }

// RootCRLOrigin is of the revocation list of Intel's root.
func RootCRLOrigin() string { return published().rootCRL() }

// StandingOrigins lists what every quote needs, whatever its platform: revocation
// lists and the identities of Intel's Quoting Enclaves.
func StandingOrigins() []string {
	o := published()
	return []string{o.rootCRL(), o.pckCRL("platform"), o.pckCRL("processor"), o.qeIdentity(quote.SGX), o.qeIdentity(quote.TDX)}
}

// ParseTCBInfoOrigin reads the origin of a platform's TCB information, in its
// canonical spelling.
func ParseTCBInfoOrigin(origin string) (tee uint32, fmspc [6]byte, err error) {
	o := published()
	for _, tee := range []uint32{quote.SGX, quote.TDX} {
		prefix := strings.TrimSuffix(o.tcbInfo(tee, fmspc), strings.Repeat("0", 2*len(fmspc)))
		rest, ok := strings.CutPrefix(origin, prefix)
		if !ok || len(rest) != 2*len(fmspc) {
			continue
		}
		if _, err := hex.Decode(fmspc[:], []byte(rest)); err != nil {
			return 0, fmspc, err
		}
		if o.tcbInfo(tee, fmspc) == origin {
			return tee, fmspc, nil
		}
	}
	return 0, fmspc, errors.New("not the origin of TCB information")
}

// CheckPublished verifies a document as the one that Intel publishes under its
// origin, by the embedded root: what a verifier would refuse is refused here.
// Whether it is current is for the caller to say.
func CheckPublished(it *collateral.Item) (collateral.Validity, error) {
	o := published()
	switch it.Origin {
	case o.rootCRL():
		return checkRootCRL(it)
	case o.pckCRL("platform"):
		return checkPCKCRL(it, SubjectPlatformCA)
	case o.pckCRL("processor"):
		return checkPCKCRL(it, SubjectProcessorCA)
	case o.qeIdentity(quote.SGX):
		return checkIdentity(it, "QE")
	case o.qeIdentity(quote.TDX):
		return checkIdentity(it, "TD_QE")
	}
	return checkTCBInfo(it)
}

func checkRootCRL(it *collateral.Item) (collateral.Validity, error) {
	if len(it.Body) > maxCRL {
		return collateral.Validity{}, fmt.Errorf("%d bytes, at most %d", len(it.Body), maxCRL)
	}
	l, err := crl.Parse(it.Body, Root())
	if err != nil {
		return collateral.Validity{}, err
	}
	return collateral.Validity{Issued: l.ThisUpdate, Until: l.NextUpdate}, nil
}

func checkPCKCRL(it *collateral.Item, subject string) (collateral.Validity, error) {
	if len(it.Body) > maxCRL {
		return collateral.Validity{}, fmt.Errorf("%d bytes, at most %d", len(it.Body), maxCRL)
	}
	certs, err := parseChain(it.Chain, 3)
	if err != nil {
		return collateral.Validity{}, fmt.Errorf("issuer chain: %w", err)
	}
	ca := certs[0]
	if err := issued(ca, Root()); err != nil {
		return collateral.Validity{}, fmt.Errorf("issuer chain: %w", err)
	}
	if ca.Subject.CommonName != subject {
		return collateral.Validity{}, fmt.Errorf("issuer chain: subject %q, not %q", ca.Subject.CommonName, subject)
	}
	l, err := crl.Parse(it.Body, ca)
	if err != nil {
		return collateral.Validity{}, err
	}
	return collateral.Validity{Issued: l.ThisUpdate, Until: l.NextUpdate}, nil
}

func checkIdentity(it *collateral.Item, id string) (collateral.Validity, error) {
	doc, s, err := openSigned(it, "enclaveIdentity", Root())
	if err != nil {
		return collateral.Validity{}, err
	}
	e, err := parseQEIdentity(doc)
	if err != nil {
		return collateral.Validity{}, err
	}
	if e.ID != id {
		return collateral.Validity{}, fmt.Errorf("it is of %.20q, not of %q", e.ID, id)
	}
	return validity(between(e.Issued, e.NextUpdate), s), nil
}

func checkTCBInfo(it *collateral.Item) (collateral.Validity, error) {
	tee, fmspc, err := ParseTCBInfoOrigin(it.Origin)
	if err != nil {
		return collateral.Validity{}, err
	}
	doc, s, err := openSigned(it, "tcbInfo", Root())
	if err != nil {
		return collateral.Validity{}, err
	}
	t, err := parseTCBInfo(doc)
	if err != nil {
		return collateral.Validity{}, err
	}
	if !strings.EqualFold(t.ID, path(tee)) || !bytes.Equal(t.FMSPC, fmspc[:]) {
		return collateral.Validity{}, fmt.Errorf("it is of %.20q, FMSPC %x", t.ID, []byte(t.FMSPC))
	}
	return validity(between(t.Issued, t.NextUpdate), s), nil
}

// validity ends with whatever ends first: document, signer or root.
func validity(doc window, s *signed) collateral.Validity {
	v := collateral.Validity{Issued: doc.firstIssue, Until: doc.expires}
	if s.chain.expires.Before(v.Until) {
		v.Until = s.chain.expires
	}
	return v
}
