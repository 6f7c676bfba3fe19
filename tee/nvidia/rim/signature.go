package rim

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"

	"github.com/cofferproject/coffer/tee/internal/certchain"
)

// XML Signature, of which one profile is taken.
const (
	nsDS         = "http://www.w3.org/2000/09/xmldsig#"
	algC14N      = "http://www.w3.org/2006/12/xml-c14n11"
	algECDSA     = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
	algSHA384    = "http://www.w3.org/2001/04/xmldsig-more#sha384"
	algEnveloped = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
)

// checkSignature checks a signature over all of root but itself, and gives the
// certificates in it.
func checkSignature(root, sig *element) ([]*x509.Certificate, error) {
	if err := sig.is(nsDS, "Signature"); err != nil {
		return nil, err
	}
	parts, err := sig.only(3)
	if err != nil {
		return nil, err
	}
	info, value, keyInfo := parts[0], parts[1], parts[2]
	want, err := readSignedInfo(info)
	if err != nil {
		return nil, err
	}
	chain, err := readKeyInfo(keyInfo)
	if err != nil {
		return nil, err
	}
	raw, err := base64Of(value, "SignatureValue", 96)
	if err != nil {
		return nil, err
	}
	if have := sha512.Sum384(canonical(root, sig)); subtle.ConstantTimeCompare(have[:], want) != 1 {
		return nil, fmt.Errorf("%w: digest of the document", ErrSignature)
	}
	key, err := certchain.P384(chain[0])
	if err != nil {
		return nil, err
	}
	h := sha512.Sum384(canonical(info, nil))
	if !ecdsa.Verify(key, h[:], new(big.Int).SetBytes(raw[:48]), new(big.Int).SetBytes(raw[48:])) {
		return nil, ErrSignature
	}
	return chain, nil
}

// readSignedInfo demands the profile, and gives the digest of the document.
func readSignedInfo(e *element) ([]byte, error) {
	if err := e.is(nsDS, "SignedInfo"); err != nil {
		return nil, err
	}
	parts, err := e.only(3)
	if err != nil {
		return nil, err
	}
	if err := algorithm(parts[0], "CanonicalizationMethod", algC14N); err != nil {
		return nil, err
	}
	if err := algorithm(parts[1], "SignatureMethod", algECDSA); err != nil {
		return nil, err
	}
	ref := parts[2]
	if err := ref.is(nsDS, "Reference", "URI"); err != nil {
		return nil, err
	}
	if len(ref.attrs) != 1 || ref.attr("", "URI") != "" {
		return nil, fmt.Errorf("the signature is over a part of the document")
	}
	if parts, err = ref.only(3); err != nil {
		return nil, err
	}
	if err := parts[0].is(nsDS, "Transforms"); err != nil {
		return nil, err
	}
	transforms, err := parts[0].only(2)
	if err != nil {
		return nil, err
	}
	for i, a := range []string{algEnveloped, algC14N} {
		if err := algorithm(transforms[i], "Transform", a); err != nil {
			return nil, err
		}
	}
	if err := algorithm(parts[1], "DigestMethod", algSHA384); err != nil {
		return nil, err
	}
	return base64Of(parts[2], "DigestValue", digestSize)
}

func algorithm(e *element, local, want string) error {
	if err := e.is(nsDS, local, "Algorithm"); err != nil {
		return err
	}
	if have := e.attr("", "Algorithm"); have != want || len(e.children) > 0 {
		return fmt.Errorf("%s %.80q is not %s", local, have, want)
	}
	return nil
}

func readKeyInfo(e *element) ([]*x509.Certificate, error) {
	if err := e.is(nsDS, "KeyInfo"); err != nil {
		return nil, err
	}
	data, err := e.only(1)
	if err != nil {
		return nil, err
	}
	if err := data[0].is(nsDS, "X509Data"); err != nil {
		return nil, err
	}
	list, err := data[0].only(-1)
	if err != nil {
		return nil, err
	}
	if len(list) < 2 || len(list) > certchain.MaxCertificates {
		return nil, fmt.Errorf("%d certificates", len(list))
	}
	var out []*x509.Certificate
	for _, x := range list {
		der, err := base64Of(x, "X509Certificate", 0)
		if err != nil {
			return nil, err
		}
		c, err := certchain.Parse(der)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// base64Of decodes an element's text, of n bytes unless n is 0.
func base64Of(e *element, local string, n int) ([]byte, error) {
	if err := e.is(nsDS, local); err != nil {
		return nil, err
	}
	text, err := e.textOf()
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.Strict().DecodeString(strings.NewReplacer("\n", "", " ", "", "\t", "").Replace(text))
	if err != nil || n != 0 && len(b) != n {
		return nil, fmt.Errorf("%s: not base64 of %d bytes", local, n)
	}
	return b, nil
}
