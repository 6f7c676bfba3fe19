package verifier

import (
	"crypto/x509"
	"time"

	"github.com/cofferproject/coffer/tee/internal/certchain"
	"github.com/cofferproject/coffer/tee/nvidia/rim"
)

// OpenManifest reads a bare reference manifest, checks its signature and that its
// chain leads to NVIDIA's root or, where simulated is not empty, to one of these, and
// gives until when its certificates are good. It asks for no revocation: that is for
// whoever judges a device by it.
func OpenManifest(b []byte, simulated []*x509.Certificate, now time.Time) (*rim.Manifest, time.Time, error) {
	v := &Verifier{rimRoots: simulated}
	if len(simulated) == 0 {
		root, err := certchain.EmbeddedRoot(rimRootPEM, rimRootSPKI)
		if err != nil {
			return nil, time.Time{}, err
		}
		v.rimRoots = []*x509.Certificate{root}
	}
	m, err := v.newManifest(b, "", now)
	if err != nil {
		return nil, time.Time{}, err
	}
	return m.Manifest, m.to, nil
}
