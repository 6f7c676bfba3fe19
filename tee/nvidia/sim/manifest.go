package sim

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// Namespaces, as canonical XML writes them; ns3 is in scope at the metadata alone.
const (
	swid    = `xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd"`
	ns0     = `xmlns:ns0="http://standards.iso.org/iso/19770/-2/2015/schema.xsd"`
	ns2     = `xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384"`
	ns3     = `xmlns:ns3="https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"`
	ds      = `xmlns:ds="http://www.w3.org/2000/09/xmldsig#"`
	infoFmt = `<ds:CanonicalizationMethod Algorithm="http://www.w3.org/2006/12/xml-c14n11"></ds:CanonicalizationMethod>` +
		`<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"></ds:SignatureMethod><ds:Reference URI="">` +
		`<ds:Transforms><ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"></ds:Transform>` +
		`<ds:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"></ds:Transform></ds:Transforms>` +
		`<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"></ds:DigestMethod><ds:DigestValue>%s</ds:DigestValue></ds:Reference></ds:SignedInfo>`
)

// Manifest writes a signed manifest in NVIDIA's shape. golden is by index from
// 0; what is not there is inactive. The text is canonical already, so that the
// digest needs nobody's canonicalisation. chain is the signer's, leaf first.
func Manifest(key *ecdsa.PrivateKey, chain []*x509.Certificate, product, version string, golden map[int][][]byte) ([]byte, error) {
	var b strings.Builder
	for i := range 64 {
		values, active := golden[i], "True"
		if values == nil {
			values, active = [][]byte{make([]byte, 48)}, "False"
		}
		fmt.Fprintf(&b, "\n        "+`<ns0:Resource active="%s" alternatives="%d" index="%d" name="Measurement_%d" size="48" type="Measurement"`, active, len(values), i, i)
		for j, v := range values {
			fmt.Fprintf(&b, ` ns2:Hash%d="%s"`, j, hex.EncodeToString(v))
		}
		b.WriteString("></ns0:Resource>")
	}
	head := `<SoftwareIdentity ` + swid + ` ` + ns0 + ` ` + ns2 + ` corpus="false" name="` + product + `" patch="false" supplemental="false" tagId="1" tagVersion="0" version="1.0">` +
		"\n    " + `<ns0:Entity name="test" role="softwareCreator tagCreator"></ns0:Entity>` + "\n    " +
		`<ns0:Meta ` + ns3 + ` PayloadType="direct" colloquialVersion="` + version + `" edition="GPU" product="` + product + `" revision="r1" ns3:PlatformManufacturerStr="NVIDIA Corporation"></ns0:Meta>` + "\n    " +
		"<ns0:Payload>" + b.String() + "\n    </ns0:Payload>\n"
	const tail = "</SoftwareIdentity>"
	digest := sha512.Sum384([]byte(head + tail))
	info := fmt.Sprintf(infoFmt, base64.StdEncoding.EncodeToString(digest[:]))
	sig, err := raw(key, []byte(`<ds:SignedInfo `+swid+` `+ds+` `+ns0+` `+ns2+`>`+info))
	if err != nil {
		return nil, err
	}
	var certs strings.Builder
	for _, c := range chain {
		certs.WriteString("<ds:X509Certificate>" + base64.StdEncoding.EncodeToString(c.Raw) + "\n</ds:X509Certificate>")
	}
	return []byte(head + `<ds:Signature ` + ds + `><ds:SignedInfo>` + info + `<ds:SignatureValue>` + base64.StdEncoding.EncodeToString(sig) +
		`</ds:SignatureValue><ds:KeyInfo><ds:X509Data>` + certs.String() + `</ds:X509Data></ds:KeyInfo></ds:Signature>` + tail + "\n"), nil
}
