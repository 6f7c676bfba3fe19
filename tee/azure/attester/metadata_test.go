package attester

import "testing"

func FuzzCertificates(f *testing.F) {
	f.Add([]byte(`{"vcekCert":"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n","tcbm":"DB18000000000004","certificateChain":"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseCertificates(b); err == nil && (len(c.vcek) == 0 || len(c.ask) == 0) {
			t.Errorf("%+v", c)
		}
	})
}
