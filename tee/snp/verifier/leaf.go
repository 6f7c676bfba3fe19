package verifier

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/tee/snp"
)

const (
	chipHWID  = 64
	turinHWID = 8
)

// leaf is what the certificate of a VCEK or VLEK says (AMD's VCEK certificate
// and KDS interface specification, table of extensions).
type leaf struct {
	cert    *x509.Certificate
	key     *ecdsa.PublicKey
	vlek    bool
	product string // "Milan"
	tcb     snp.TCB
	hwid    []byte // VCEK: 64 bytes, Turin 8
	csp     string // VLEK: the cloud provider
}

// Extensions 1.3.6.1.4.1.3704.1.x.
var amdArc = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}

const (
	extStruct, extProduct, extSPL, extHWID, extCSP = 1, 2, 3, 4, 5

	splBootloader, splTEE, splSNP, splMicrocode, splFMC = 1, 2, 3, 8, 9
)

func parseLeaf(der []byte, vlek bool) (*leaf, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	l := &leaf{cert: c, vlek: vlek}
	var ok bool
	if l.key, ok = c.PublicKey.(*ecdsa.PublicKey); !ok || l.key.Curve != elliptic.P384() {
		return nil, errors.New("not a key on P-384")
	}
	if c.IsCA || len(c.UnhandledCriticalExtensions) > 0 || c.Version != 3 {
		return nil, errors.New("a CA, or a critical extension that is not known")
	}
	spl := map[int]uint8{}
	seen := map[string]bool{}
	for _, e := range c.Extensions {
		if len(e.Id) <= len(amdArc) || !e.Id[:len(amdArc)].Equal(amdArc) {
			continue
		}
		if id := e.Id.String(); seen[id] {
			return nil, fmt.Errorf("extension %s comes twice", id)
		} else {
			seen[id] = true
		}
		if err := l.extension(e.Id[len(amdArc):], e.Value, spl); err != nil {
			return nil, fmt.Errorf("extension %s: %w", e.Id, err)
		}
	}
	return l, l.complete(spl)
}

func (l *leaf) extension(id asn1.ObjectIdentifier, v []byte, spl map[int]uint8) (err error) {
	switch {
	case len(id) == 1 && id[0] == extProduct:
		var s string
		if s, err = ia5(v); err == nil {
			l.product, _, _ = strings.Cut(s, "-")
		}
	case len(id) == 1 && id[0] == extHWID:
		l.hwid = v
		if len(v) == chipHWID+2 && v[0] == asn1.TagOctetString && v[1] == chipHWID || len(v) == turinHWID+2 && v[0] == asn1.TagOctetString && v[1] == turinHWID {
			l.hwid = v[2:]
		}
	case len(id) == 1 && id[0] == extCSP:
		l.csp, err = ia5(v)
	case len(id) == 2 && id[0] == extSPL:
		var n int
		rest, err := asn1.Unmarshal(v, &n)
		if err != nil || len(rest) > 0 || n < 0 || n > 255 {
			return errors.New("not a patch level")
		}
		spl[id[1]] = uint8(n)
	}
	return err
}

func ia5(v []byte) (string, error) {
	if len(v) < 2 || v[0] != asn1.TagIA5String && v[0] != asn1.TagUTF8String || int(v[1]) != len(v)-2 || v[1] >= 0x80 {
		return "", errors.New("not a short string")
	}
	for _, c := range v[2:] {
		if c < 0x20 || c > 0x7E {
			return "", errors.New("not a printable string")
		}
	}
	return string(v[2:]), nil
}

// complete checks that nothing is missing that the report is compared with.
func (l *leaf) complete(spl map[int]uint8) error {
	l.tcb = snp.TCB{Bootloader: spl[splBootloader], TEE: spl[splTEE], SNP: spl[splSNP], Microcode: spl[splMicrocode]}
	need := []int{splBootloader, splTEE, splSNP, splMicrocode}
	if l.product == Turin {
		need = append(need, splFMC)
		l.tcb.WithFMC, l.tcb.FMC = true, spl[splFMC]
	}
	for _, id := range need {
		if _, ok := spl[id]; !ok {
			return fmt.Errorf("no patch level %d", id)
		}
		delete(spl, id)
	}
	for id, v := range spl {
		if v != 0 {
			return fmt.Errorf("patch level %d, which no report carries, is not zero", id)
		}
	}
	size := chipHWID
	if l.product == Turin {
		size = turinHWID
	}
	switch {
	case l.product == "":
		return errors.New("no product name")
	case l.vlek && (l.csp == "" || l.hwid != nil):
		return errors.New("a VLEK names a cloud provider and no chip")
	case !l.vlek && (len(l.hwid) != size || l.csp != ""):
		return fmt.Errorf("a VCEK of %s names a chip in %d bytes and no cloud provider", l.product, size)
	}
	return nil
}
