// Package clock is the guest's time (design.md section 4, rule Time). The host
// gives no time that anybody believes: before the first signed time there is
// only a floor, the date of the source revision that the image was built from;
// then there is the signed time plus what the monotonic clock counted.
//
// Invariants: time never goes back; the wall clock is never read; before the
// first signed time certificates are checked for everything except NotBefore,
// and NotAfter against the floor.
//
// Trust zone: guest.
package clock

import (
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"
)

// skew is how far a signed time may lie before what the clock already says.
const skew = 2 * time.Minute

// Clock is safe for concurrent use.
type Clock struct {
	mu     sync.Mutex
	floor  time.Time
	signed time.Time // zero until Observe
	at     time.Time // monotonic reading at signed
	mono   func() time.Time
}

// New starts a clock at its floor, which must be given.
func New(floor time.Time) (*Clock, error) {
	if floor.Unix() < 1_577_836_800 { // 2020
		return nil, errors.New("clock: the floor is no plausible date of a source revision")
	}
	return &Clock{floor: floor.Round(0), mono: time.Now}, nil
}

// Signed reports whether a signed time has been seen.
func (c *Clock) Signed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.signed.IsZero()
}

// Now gives the best known lower bound of the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Clock) now() time.Time {
	if c.signed.IsZero() {
		return c.floor
	}
	// The difference of two readings of this process is monotonic.
	return c.signed.Add(c.mono().Sub(c.at))
}

// Observe takes a time whose signature the caller has verified up to the CA in
// initdata. A time before the floor is an error, one that would turn the clock
// back is ignored.
func (c *Clock) Observe(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	t = t.Round(0)
	if t.Before(c.floor.Add(-skew)) {
		return fmt.Errorf("signed time %s is before this guest image was made (%s)", t.UTC().Format(time.RFC3339), c.floor.UTC().Format(time.RFC3339))
	}
	if !c.signed.IsZero() && t.Before(c.now()) {
		return nil
	}
	c.signed, c.at = t, c.mono()
	return nil
}

// VerifyChain checks certs (leaf first) against roots for a use, by the time
// rule. dnsName is the host or IP address that the leaf must name, "" for none.
func (c *Clock) VerifyChain(certs, roots []*x509.Certificate, dnsName string, use x509.ExtKeyUsage) error {
	if len(certs) == 0 {
		return errors.New("no certificate")
	}
	lenient := !c.Signed()
	fit := func(in *x509.Certificate) *x509.Certificate {
		if !lenient {
			return in
		}
		// A copy without its beginning; the signature is over the raw bytes.
		out := *in
		out.NotBefore = time.Time{}
		return &out
	}
	o := x509.VerifyOptions{
		DNSName: dnsName, CurrentTime: c.Now(), KeyUsages: []x509.ExtKeyUsage{use},
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(),
	}
	for _, r := range roots {
		o.Roots.AddCert(fit(r))
	}
	for _, i := range certs[1:] {
		o.Intermediates.AddCert(fit(i))
	}
	_, err := fit(certs[0]).Verify(o)
	return err
}
