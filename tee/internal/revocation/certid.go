package revocation

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/ocsp"
)

// tbsResponse is ResponseData of RFC 6960, 4.2.1, as far as it names certificates.
type tbsResponse struct {
	Version   int `asn1:"optional,default:0,explicit,tag:0"`
	Responder asn1.RawValue
	Produced  time.Time `asn1:"generalized"`
	Responses []struct{ ID certID }
}

type certID struct {
	Hash              pkix.AlgorithmIdentifier
	NameHash, KeyHash []byte
	Serial            *big.Int
}

// checkIssuer demands that the answer about a certificate is about this issuer's (RFC
// 6960, 3.2): a responder may answer for several, whose serial numbers may be equal.
func checkIssuer(r *ocsp.Response, c, issuer *x509.Certificate) error {
	var tbs tbsResponse
	if _, err := asn1.Unmarshal(r.TBSResponseData, &tbs); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	raw, err := ocsp.CreateRequest(c, issuer, &ocsp.RequestOptions{Hash: r.IssuerHash})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	want, err := ocsp.ParseRequest(raw)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	for i := range tbs.Responses {
		id := &tbs.Responses[i].ID
		if id.Serial == nil || id.Serial.Cmp(c.SerialNumber) != 0 {
			continue // as ParseResponseForCert chooses
		}
		if bytes.Equal(id.NameHash, want.IssuerNameHash) && bytes.Equal(id.KeyHash, want.IssuerKeyHash) {
			return nil
		}
		break
	}
	return fmt.Errorf("%w: its answer is about another issuer's certificate", ErrUntrusted)
}
