package sim

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/quote"
)

// CollateralOptions play what Intel might publish. The zero value is a machine
// that is up to date.
type CollateralOptions struct {
	// Now is the time of issue; zero: when the machine was provisioned.
	Now time.Time
	// Life is how long the documents are valid; zero: ten years.
	Life time.Duration
	// Platform, Module and QE are the status of the level that the machine
	// reaches; "": UpToDate.
	Platform, Module, QE intel.Status
	Advisories           []string
	// NewerModule publishes a TDX module one SVN above the machine's, so that
	// Module, "" then OutOfDate, is an older level.
	NewerModule bool
	// AboveMachine publishes only levels that the machine does not reach.
	AboveMachine bool
	// Revoke a certificate of the machine.
	RevokePCK, RevokeCA, RevokeSigner bool
	// List, if set, changes both revocation lists before they are signed.
	List func(*x509.RevocationList)
}

type object = map[string]any

// Collateral gives everything that verifying this machine's quotes needs, SGX
// and TDX, under its own origins.
func (p *Platform) Collateral(o CollateralOptions) ([]*collateral.Item, error) {
	if o.Now.IsZero() {
		o.Now = p.root.Cert.NotBefore.Add(time.Hour)
	}
	if o.Life == 0 {
		o.Life = 10 * 365 * 24 * time.Hour
	}
	o.Now = o.Now.UTC().Truncate(time.Second)
	if o.NewerModule && o.Module == "" {
		o.Module = intel.StatusOutOfDate
	}
	for _, s := range []*intel.Status{&o.Platform, &o.Module, &o.QE} {
		if *s == "" {
			*s = intel.StatusUpToDate
		}
	}
	ca := "platform"
	if p.ca.Cert.Subject.CommonName == intel.SubjectProcessorCA {
		ca = "processor"
	}
	var out []*collateral.Item
	add := func(origin string, body, chain []byte, err error) error {
		if err != nil {
			return fmt.Errorf("collateral %s: %w", origin, err)
		}
		out = append(out, &collateral.Item{Origin: origin, Body: body, Chain: chain, Fetched: o.Now})
		return nil
	}
	rootCRL, pckCRL, _, _ := intel.Origins(p.RootSPKI(), quote.SGX, FMSPC, ca)
	body, err := p.crl(p.root, o, revoked(o.RevokeCA, p.ca), revoked(o.RevokeSigner, p.signer))
	if err := add(rootCRL, body, nil, err); err != nil {
		return nil, err
	}
	body, err = p.crl(p.ca, o, revoked(o.RevokePCK, p.pck))
	if err := add(pckCRL, body, chainPEM(p.ca, p.root), err); err != nil {
		return nil, err
	}
	for _, tee := range []uint32{quote.SGX, quote.TDX} {
		_, _, tcb, qe := intel.Origins(p.RootSPKI(), tee, FMSPC, ca)
		body, err := p.signed("tcbInfo", tcbInfo(tee, &o))
		if err := add(tcb, body, chainPEM(p.signer, p.root), err); err != nil {
			return nil, err
		}
		body, err = p.signed("enclaveIdentity", p.identity(tee, &o))
		if err := add(qe, body, chainPEM(p.signer, p.root), err); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func revoked(is bool, c *issued) []*issued {
	if is {
		return []*issued{c}
	}
	return nil
}

func (p *Platform) crl(by *issued, o CollateralOptions, lists ...[]*issued) ([]byte, error) {
	t := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: o.Now, NextUpdate: o.Now.Add(o.Life)}
	for _, list := range lists {
		for _, c := range list {
			t.RevokedCertificateEntries = append(t.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.Cert.SerialNumber, RevocationTime: o.Now})
		}
	}
	if o.List != nil {
		o.List(t)
	}
	return x509.CreateRevocationList(rand.Reader, t, by.Cert, by.Key)
}

// signed gives {"name": document, "signature": hex} as the PCS does.
func (p *Platform) signed(name string, doc object) ([]byte, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	sig, err := signRaw(p.signer.Key, b)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{"%s":%s,"signature":"%x"}`, name, b, sig), nil
}

func dates(id string, version int, o *CollateralOptions) object {
	return object{
		"id": id, "version": version, "issueDate": o.Now.Format(time.RFC3339), "nextUpdate": o.Now.Add(o.Life).Format(time.RFC3339),
		"tcbEvaluationDataNumber": 1,
	}
}

func level(tcb any, s intel.Status, o *CollateralOptions) object {
	l := object{"tcb": tcb, "tcbDate": o.Now.Truncate(24 * time.Hour).Format(time.RFC3339), "tcbStatus": s}
	if len(o.Advisories) > 0 {
		l["advisoryIDs"] = o.Advisories
	}
	return l
}

func components(svn [16]byte) []object {
	var out []object
	for _, s := range svn {
		out = append(out, object{"svn": s})
	}
	return out
}

func tcbInfo(tee uint32, o *CollateralOptions) object {
	pce := pceSVN
	if o.AboveMachine {
		pce++
	}
	tcb := object{"sgxtcbcomponents": components(cpuSVN), "pcesvn": pce}
	doc := dates("SGX", 3, o)
	if tee == quote.TDX {
		doc["id"] = "TDX"
		tcb["tdxtcbcomponents"] = components(tdxSVN)
		module := object{"mrsigner": strings.Repeat("0", 96), "attributes": strings.Repeat("0", 16), "attributesMask": strings.Repeat("F", 16)}
		doc["tdxModule"] = module
		levels := []object{level(object{"isvsvn": tdxSVN[0]}, o.Module, o)}
		if o.NewerModule {
			levels = append([]object{level(object{"isvsvn": tdxSVN[0] + 1}, intel.StatusUpToDate, o)}, levels...)
		}
		doc["tdxModuleIdentities"] = []object{{
			"id": fmt.Sprintf("TDX_%02X", tdxSVN[1]), "mrsigner": module["mrsigner"], "attributes": module["attributes"],
			"attributesMask": module["attributesMask"], "tcbLevels": levels,
		}}
	}
	doc["fmspc"], doc["pceId"], doc["tcbType"] = hex.EncodeToString(FMSPC[:]), hex.EncodeToString(pceID[:]), 0
	doc["tcbLevels"] = []object{level(tcb, o.Platform, o)}
	return doc
}

func (p *Platform) identity(tee uint32, o *CollateralOptions) object {
	id, svn, prod := "QE", qeISVSVN, qeProdID
	if tee == quote.TDX {
		id, svn, prod = "TD_QE", tdqeSVN, tdqeProd
	}
	doc := dates(id, 2, o)
	doc["miscselect"], doc["miscselectMask"] = "00000000", "FFFFFFFF"
	doc["attributes"], doc["attributesMask"] = "11"+strings.Repeat("0", 30), "FBFFFFFFFFFFFFFF"+strings.Repeat("0", 16)
	doc["mrsigner"], doc["isvprodid"] = hex.EncodeToString(QESigner[:]), prod
	doc["tcbLevels"] = []object{level(object{"isvsvn": svn}, o.QE, o)}
	return doc
}
