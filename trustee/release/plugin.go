package release

import (
	"context"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/trace"
)

// ReasonPlugin says that a plugin did not give what was asked for.
const ReasonPlugin denial.Reason = "plugin-failed"

// ReasonPluginRefused says that a plugin of this process may not give what was asked
// for.
const ReasonPluginRefused denial.Reason = "plugin-refused"

// ErrRefused is, or is wrapped by, the error of a plugin that may not give what was
// asked for, whoever asks.
var ErrRefused = errors.New("refused")

// in checks the entry in what the verified initdata of a result says. A document that
// was not there, or whose entry was too long for a token, has no such entry.
func (n *Named) in(s *ear.Submod) error {
	if n == nil {
		return nil
	}
	data, _ := s.Evidence["init_data_claims"].(map[string]any)
	got, ok := data[n.Key].(string)
	if ok && got == n.Value {
		return nil
	}
	d := &denial.Denial{Reason: ReasonNamed, Component: Component, Claim: "initdata " + n.Key, Measured: "nothing", Expected: n.Value, Source: "path of the request"}
	if ok {
		d.Measured = got
	}
	return d
}

// ReasonIdentityKey says that an identity was asked for with a key that the guest's
// evidence did not cover.
const ReasonIdentityKey denial.Reason = "identity-key-not-attested"

// coversKey checks that the evidence behind a result covered a key.
func coversKey(want string, s *ear.Submod) error {
	if want == "" {
		return nil
	}
	rt, _ := s.Evidence["runtime_data_claims"].(map[string]any)
	bound, _ := rt[kbs.BindingClaim].(map[string]any)
	got, _ := bound[kbs.BindIdentityKey].(string)
	if got == want {
		return nil
	}
	if got == "" {
		got = "no key"
	}
	return &denial.Denial{
		Reason: ReasonIdentityKey, Component: Component, Claim: kbs.BindIdentityKey, Measured: got, Expected: want,
		Source: "certificate request",
	}
}

// Use has a plugin answer an attested guest under the rules of a stored secret:
// req.Resource is the name under which the plugin is bound. What leaves is recorded
// before the plugin is asked, since asking may change something; call gives the answer
// and whether it is to be encrypted. A refusal is a *denial.Denial with its record.
func (g *Gate) Use(ctx context.Context, req Request, call func(context.Context) (body []byte, encrypted bool, err error)) (out *Released, plain []byte, err error) {
	r := trusteeapi.Record{ID: record.NewID(), Kind: "release", Namespace: req.Namespace, Peer: req.Peer, Resource: req.Resource}
	inside, span := trace.Start(ctx, trace.SpanRelease)
	for range 3 {
		if out, plain, err = g.use(inside, req, &r, call); !errors.Is(err, errKeysChanged) {
			break
		}
		if err = g.cfg.Tokens.Reread(inside, req.Namespace); err != nil {
			break
		}
	}
	span.End(err)
	if d, ok := denial.As(err); ok {
		return nil, nil, g.cfg.Book.Deny(ctx, r, d)
	}
	return out, plain, err
}

func (g *Gate) use(ctx context.Context, req Request, r *trusteeapi.Record, call func(context.Context) ([]byte, bool, error)) (*Released, []byte, error) {
	a, err := g.authorise(ctx, &req, r, func(store.Tx) error { return nil })
	if err != nil {
		return nil, nil, err
	}
	key, keyID, err := g.recipient(a)
	if err != nil {
		return nil, nil, err
	}
	e := a.entry(&req, r.ID, keyID)
	if err := g.cfg.Audit.Append(ctx, &e); err != nil {
		return nil, nil, Unrecorded(Component, err)
	}
	out := &Released{entry: audit.Entry{Record: r.ID, Namespace: req.Namespace, Peer: req.Peer, Resource: req.Resource}}
	body, encrypted, err := call(ctx)
	if err != nil {
		g.Delivered(out, fmt.Errorf("%w: %w", errPlugin, err))
		reason := ReasonPlugin
		if errors.Is(err, ErrRefused) {
			reason = ReasonPluginRefused
		}
		return nil, nil, &denial.Denial{
			Reason: reason, Component: Component, Claim: "plugin", Measured: err.Error(), Expected: "an answer", Source: req.Resource,
		}
	}
	defer clear(body)
	if !encrypted {
		return out, append([]byte(nil), body...), nil
	}
	if out.JWE, err = kbs.Seal(key, body); err != nil {
		g.Delivered(out, err)
		return nil, nil, err
	}
	return out, nil, nil
}

var errPlugin = errors.New("plugin")
