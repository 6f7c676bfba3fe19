package simhw

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
)

func TestMarked(t *testing.T) {
	for name, c := range map[string]struct {
		c    x509.Certificate
		want bool
	}{
		"subject":        {x509.Certificate{Subject: pkix.Name{Organization: []string{"x", Organization}}}, true},
		"issuer":         {x509.Certificate{Issuer: pkix.Name{Organization: []string{Organization}}}, true},
		"an earlier TPM": {x509.Certificate{Subject: pkix.Name{Organization: []string{"Coffer simulation, protects nothing"}}}, true},
		"an earlier TDX": {x509.Certificate{Subject: pkix.Name{Organization: []string{"Coffer simulated hardware, protects nothing"}}}, true},
		"an earlier CCA": {x509.Certificate{Subject: pkix.Name{CommonName: "Coffer simulated Arm CCA platform"}}, true},
		"nitro":          {x509.Certificate{Subject: pkix.Name{CommonName: "simulated.aws.nitro-enclaves"}}, true},
		"a maker":        {x509.Certificate{Subject: pkix.Name{CommonName: "Infineon OPTIGA(TM) TPM 2.0", Organization: []string{"Infineon"}}}, false},
		"no name":        {x509.Certificate{}, false},
	} {
		if Marked(&c.c) != c.want {
			t.Errorf("%s: not %t", name, c.want)
		}
	}
}
