package asapi

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net/http"
)

// caller is whoever sent a request.
type caller struct {
	peer  string // address
	id    string // "cert:" and the SHA-256 of the certificate's key; "": none came
	admin bool
}

// String says who it is, for a refusal.
func (c caller) String() string {
	if c.id == "" {
		return "no certificate"
	}
	return c.id
}

type callerKey struct{}

// callerOf gives the caller of a request; who is not known may change nothing.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// identify notes who sends a request: what the TLS handshake has verified, and
// whether an administrators' authority has issued it.
func identify(admins *x509.CertPool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := caller{peer: r.RemoteAddr}
		if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
			leaf := r.TLS.VerifiedChains[0][0]
			sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
			c.id, c.admin = "cert:"+hex.EncodeToString(sum[:]), issuedBy(admins, r.TLS)
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// issuedBy verifies the peer's chain anew, to these authorities alone.
func issuedBy(admins *x509.CertPool, state *tls.ConnectionState) bool {
	if admins == nil {
		return false
	}
	between := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: admins, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err == nil
}
