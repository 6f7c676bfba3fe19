package keyholder

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
)

// What evidence covers beside the published runtime data (api/kbs SPEC.md, "Binding").
// Nothing of it is offered unless initdata asks for it: a trustee behind a proxy that ends
// TLS would hold this guest to a channel that the guest does not have.

// bound is what one handshake offers, and the values that go with it.
type bound struct {
	http     *http.Client // for the handshake's two requests
	offer    []string
	exporter string            // of the connection that http has; "": not offered
	verifier string            // whom that connection has verified; "": not offered
	identity *ecdsa.PrivateKey // nil: not offered
	close    func()
}

// bind makes the values. The key is made only if there is an identity for it.
func (c *client) bind(ctx context.Context) (*bound, error) {
	b := &bound{http: c.http, close: func() {}}
	if len(c.identities) > 0 {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("making the key for identities: %w", err)
		}
		b.identity, b.offer = k, append(b.offer, kbs.BindIdentityKey)
	}
	if !c.bindChannel {
		return b, nil
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	state := conn.ConnectionState()
	if b.exporter, err = kbs.ChannelBinding(&state); err != nil {
		_ = conn.Close()
		return nil, notBound(err.Error())
	}
	if b.verifier, err = kbs.VerifierBinding(&state); err != nil {
		_ = conn.Close()
		return nil, notBound(err.Error())
	}
	b.http, b.close = c.over(conn)
	b.offer = append(b.offer, kbs.BindTLSExporter, kbs.BindVerifierKey)
	return b, nil
}

// confirmed gives the binding that a challenge asks for. identity says that the evidence
// covers the key for identities.
func (b *bound) confirmed(c *client, names []string) (binding *kbs.Binding, identity bool, err error) {
	for _, n := range names {
		if !slices.Contains(b.offer, n) {
			return nil, false, c.protocol("challenge: %.40q is confirmed and was not offered", n)
		}
	}
	out := new(kbs.Binding)
	if slices.Contains(names, kbs.BindTLSExporter) {
		out.TLSExporter = b.exporter
	} else if c.bindChannel {
		return nil, false, notBound("the trustee does not confirm it: it does not know it, has got no offer, or ends another connection than ours")
	}
	// The exporter covers the server's certificate already; its key by name is for whoever
	// reads the evidence later. A trustee of before does not know it.
	if slices.Contains(names, kbs.BindVerifierKey) {
		out.VerifierKey = b.verifier
	}
	if identity = slices.Contains(names, kbs.BindIdentityKey); identity {
		if out.IdentityKey, err = keyBinding(b.identity); err != nil {
			return nil, false, err
		}
	}
	if len(out.Members()) == 0 {
		return nil, false, nil
	}
	return out, identity, nil
}

func keyBinding(k *ecdsa.PrivateKey) (string, error) {
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return "", fmt.Errorf("encoding the key for identities: %w", err)
	}
	return kbs.KeyBinding(spki), nil
}

func notBound(why string) error {
	return &denial.Denial{
		Reason: ReasonChannelNotBound, Component: Component, Claim: kbs.BindTLSExporter, Measured: why,
		Expected: "evidence that covers the TLS connection", Source: "bind_channel in initdata",
	}
}

// requestExtra is what the TEE has to say in the first message, and the offer.
func requestExtra(tee Attester, offer []string) *kbs.RequestExtra {
	x := tee.RequestExtra()
	if len(offer) == 0 {
		return x
	}
	out := new(kbs.RequestExtra)
	if x != nil {
		*out = *x
	}
	out.Binding = offer
	return out
}

// dial connects to the trustee as the transport does.
func (c *client) dial(ctx context.Context) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, tlsTimeout)
	defer cancel()
	port := c.base.Port()
	if port == "" {
		port = "443"
	}
	raw, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(c.base.Hostname(), port))
	if err != nil {
		return nil, &unavailableError{err}
	}
	cfg := c.tls.Clone()
	cfg.ServerName = c.base.Hostname()
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		if d, ok := denial.As(err); ok {
			return nil, d
		}
		return nil, &unavailableError{err}
	}
	return conn, nil
}

var errOneConnection = errors.New("the connection that the evidence covers has ended")

// over gives a client that has this one connection and never makes another, so that
// evidence for it goes nowhere else. close ends it.
func (c *client) over(conn *tls.Conn) (hc *http.Client, end func()) {
	once := make(chan *tls.Conn, 1)
	once <- conn
	t := &http.Transport{
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			select {
			case conn := <-once:
				return conn, nil
			default:
				return nil, errOneConnection
			}
		},
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
	}
	return &http.Client{Transport: t, CheckRedirect: c.http.CheckRedirect}, func() {
		t.CloseIdleConnections()
		_ = conn.Close() // it may never have been handed out
	}
}
