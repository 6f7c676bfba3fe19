package kbsapi

import (
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/session"
)

// Reasons of denials about what evidence must cover. docs/denials.md explains each.
const (
	ReasonChannel         denial.Reason = "channel-mismatch"
	ReasonBinding         denial.Reason = "binding-mismatch"
	ReasonBindingDemanded denial.Reason = "channel-binding-demanded"
	ReasonVerifier        denial.Reason = "verifier-mismatch"
)

func ofBinding(r denial.Reason) bool {
	return r == ReasonChannel || r == ReasonBinding || r == ReasonBindingDemanded || r == ReasonVerifier
}

type presentedKey struct{}

// WithPresented puts into a connection's context what gives the binding value of the
// certificate that the server has shown on it; "": none.
func WithPresented(ctx context.Context, key func() string) context.Context {
	return context.WithValue(ctx, presentedKey{}, key)
}

func (c *call) presented() string {
	key, ok := c.r.Context().Value(presentedKey{}).(func() string)
	if !ok {
		return ""
	}
	return key()
}

// confirm says in the challenge what of the client's offer the evidence must cover.
func (c *call) confirm(req *kbs.Request, challenge *kbs.Challenge) ([]string, error) {
	x, err := req.Extra()
	if err != nil || len(x.Binding) == 0 {
		return nil, nil // what others have in their extra-params is no business of ours
	}
	_, err = kbs.ChannelBinding(c.r.TLS)
	names := kbs.Confirmed(x.Binding, err == nil, c.presented() != "")
	if len(names) == 0 {
		return nil, nil
	}
	// "" in general, else an object that the verifier has made.
	m := map[string]json.RawMessage{}
	if t := strings.TrimSpace(string(challenge.ExtraParams)); strings.HasPrefix(t, "{") {
		if err := json.Unmarshal(challenge.ExtraParams, &m); err != nil {
			return nil, fmt.Errorf("confirming a binding: %w", err)
		}
	}
	if m[kbs.BindingClaim], err = json.Marshal(names); err != nil {
		return nil, fmt.Errorf("confirming a binding: %w", err)
	}
	if challenge.ExtraParams, err = json.Marshal(m); err != nil {
		return nil, fmt.Errorf("confirming a binding: %w", err)
	}
	return names, nil
}

// bound holds a message to what its session has confirmed and its namespace demands.
// That the evidence covers what the message says is for the verifier to find.
func (c *call) bound(ctx context.Context, open *session.Open, b *kbs.Binding) error {
	if got := b.Members(); !slices.Equal(got, open.Binding) {
		return &denial.Denial{
			Reason: ReasonBinding, Component: release.Component, Claim: "runtime-data " + kbs.BindingClaim, Measured: list(got),
			Expected: list(open.Binding), Source: "challenge of this session",
		}
	}
	if slices.Contains(open.Binding, kbs.BindVerifierKey) {
		want := c.presented()
		if want == "" || subtle.ConstantTimeCompare([]byte(b.VerifierKey), []byte(want)) != 1 {
			return &denial.Denial{
				Reason: ReasonVerifier, Component: release.Component, Claim: kbs.BindVerifierKey, Measured: b.VerifierKey, Expected: cmp.Or(want, "none"),
				Source: "this trustee's certificate on the connection that brought the evidence",
			}
		}
	}
	if !slices.Contains(open.Binding, kbs.BindTLSExporter) {
		n, err := c.h.cfg.Registry.Namespace(ctx, c.ns)
		if err != nil {
			return err
		}
		if !n.RequireChannelBinding {
			return nil
		}
		measured := "not confirmed: the connection of /auth was not TLS 1.3 up to here"
		if x, err := (&kbs.Request{ExtraParams: open.Extra}).Extra(); err != nil || !slices.Contains(x.Binding, kbs.BindTLSExporter) {
			measured = "not offered by the guest"
		}
		return &denial.Denial{
			Reason: ReasonBindingDemanded, Component: release.Component, Claim: kbs.BindTLSExporter, Measured: measured,
			Expected: "evidence that covers the TLS connection", Source: "require_channel_binding of namespace " + c.ns,
		}
	}
	want, err := kbs.ChannelBinding(c.r.TLS)
	if err != nil {
		want = err.Error()
	}
	if err != nil || subtle.ConstantTimeCompare([]byte(b.TLSExporter), []byte(want)) != 1 {
		return &denial.Denial{
			Reason: ReasonChannel, Component: release.Component, Claim: kbs.BindTLSExporter, Measured: b.TLSExporter, Expected: want,
			Source: "the connection that brought the evidence",
		}
	}
	return nil
}

func list(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}
