package verifier

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/internal/crl"
	"github.com/cofferproject/coffer/tee/snp"
)

// KDS is the start of all origins of AMD's.
const KDS = kds

// MaxPublished is the most bytes of anything that AMD publishes.
const MaxPublished = maxCRL

// VCEKName is what the origin of a VCEK's certificate says.
type VCEKName struct {
	Product string
	ChipID  [64]byte
	TCB     snp.TCB
}

var vcekRE = regexp.MustCompile(`^vcek/v1/(Milan|Genoa|Turin)/([0-9a-f]{16}|[0-9a-f]{128})\?(?:fmcSPL=([0-9]{2,3})&)?blSPL=([0-9]{2,3})&teeSPL=([0-9]{2,3})&snpSPL=([0-9]{2,3})&ucodeSPL=([0-9]{2,3})$`)

// ParseVCEKOrigin reads what VCEKOrigin writes, and nothing else. A chip that
// does not say who it is, by an id of zeros, has no certificate.
func ParseVCEKOrigin(origin string) (VCEKName, error) {
	var n VCEKName
	rest, ok := strings.CutPrefix(origin, kds)
	m := vcekRE.FindStringSubmatch(rest)
	if !ok || m == nil {
		return n, errors.New("not the origin of a VCEK's certificate")
	}
	n.Product = m[1]
	if _, err := hex.Decode(n.ChipID[:], []byte(m[2])); err != nil {
		return n, err
	}
	if n.ChipID == [64]byte{} {
		return n, errors.New("the chip's id is zero: its owner has masked it")
	}
	n.TCB.WithFMC = m[3] != ""
	for i, to := range []*uint8{&n.TCB.FMC, &n.TCB.Bootloader, &n.TCB.TEE, &n.TCB.SNP, &n.TCB.Microcode} {
		if m[3+i] == "" {
			continue
		}
		v, err := strconv.ParseUint(m[3+i], 10, 8)
		if err != nil {
			return n, fmt.Errorf("patch level: %w", err)
		}
		*to = uint8(v)
	}
	if n.TCB.WithFMC != (n.Product == Turin) || VCEKOrigin(n.Product, n.ChipID, n.TCB) != origin {
		return n, errors.New("not the canonical spelling of a VCEK's origin")
	}
	return n, nil
}

// StandingOrigins lists what every verifier of AMD's products needs, whatever the
// chip: the revocation lists.
func StandingOrigins() []string {
	var out []string
	for _, p := range Products {
		out = append(out, CRLOrigin(p, false), CRLOrigin(p, true))
	}
	return out
}

// CheckPublished verifies a document as the one that AMD publishes under its
// origin, by the embedded roots: what a verifier would refuse is refused here.
// Whether it is current is for the caller to say.
func CheckPublished(it *collateral.Item) (collateral.Validity, error) {
	if len(it.Body) > MaxPublished {
		return collateral.Validity{}, fmt.Errorf("%d bytes, at most %d", len(it.Body), MaxPublished)
	}
	anchors, err := vendorAnchors()
	if err != nil {
		return collateral.Validity{}, err
	}
	for _, a := range anchors {
		if it.Origin == CRLOrigin(a.product, false) || it.Origin == CRLOrigin(a.product, true) {
			return a.checkCRL(it.Body)
		}
	}
	n, err := ParseVCEKOrigin(it.Origin)
	if err != nil {
		return collateral.Validity{}, err
	}
	for _, a := range anchors {
		if a.product == n.Product {
			return a.checkVCEK(n, it.Body)
		}
	}
	return collateral.Validity{}, fmt.Errorf("no root of product %s", n.Product)
}

func (a *anchor) checkCRL(body []byte) (collateral.Validity, error) {
	l, err := crl.Parse(body, a.ark)
	if err != nil {
		return collateral.Validity{}, err
	}
	if l.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return collateral.Validity{}, fmt.Errorf("signed with %s", l.SignatureAlgorithm)
	}
	return collateral.Validity{Issued: l.ThisUpdate, Until: l.NextUpdate}, nil
}

func (a *anchor) checkVCEK(n VCEKName, body []byte) (collateral.Validity, error) {
	l, err := parseLeaf(body, false)
	if err != nil {
		return collateral.Validity{}, err
	}
	if _, err := a.issued(l, nil); err != nil {
		return collateral.Validity{}, err
	}
	want := n.ChipID[:len(l.hwid)]
	if l.product != n.Product || l.tcb != n.TCB || !bytes.Equal(l.hwid, want) {
		return collateral.Validity{}, fmt.Errorf("it is of product %s, chip %x, TCB %s", l.product, l.hwid, l.tcb)
	}
	return collateral.Validity{Issued: l.cert.NotBefore, Until: l.cert.NotAfter, Immutable: true}, nil
}
