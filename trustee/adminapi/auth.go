package adminapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/credential"
	"github.com/cofferproject/coffer/trustee/oidc"
	"github.com/cofferproject/coffer/trustee/store"
)

// Component names the administration in denials.
const Component = "trustee-admin"

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonUnauthenticated denial.Reason = "admin-unauthenticated"
	ReasonForbidden       denial.Reason = "admin-forbidden"
)

// authorise gives who asks, if he has the permission where it is needed.
func (h *Handler) authorise(r *http.Request, need Permission, scope, ns string) (*credential.Caller, error) {
	c, err := h.authenticate(r)
	if err != nil {
		return nil, err
	}
	if !allowed(c, need, scope, ns) {
		return nil, forbidden(c, need, ns)
	}
	return c, nil
}

// still refuses who has lost since he was authenticated what he was given then: a body
// comes as late as its sender likes.
func (h *Handler) still(ctx context.Context, c *credential.Caller) error {
	return asDenial(h.cfg.Credentials.Still(ctx, c))
}

// ended makes a refusal of the errors of Still among others.
func ended(err error) error {
	if errors.Is(err, credential.ErrUnknown) || errors.Is(err, credential.ErrExpired) {
		return unauthenticated(err)
	}
	return err
}

func forbidden(c *credential.Caller, need Permission, ns string) error {
	where := "namespace " + ns
	if ns == "" {
		where = "the whole trustee"
	}
	var have []string
	for _, g := range c.Grants {
		have = append(have, string(g.Role)+"@"+g.Namespace)
	}
	return &denial.Denial{
		Reason: ReasonForbidden, Component: Component, Claim: string(need), Measured: c.Actor + ": " + strings.Join(have, ", "),
		Expected: string(need) + " in " + where, Source: "roles of this trustee",
	}
}

// authenticate gives who asks: by a token where there is one, else by the client
// certificate of the connection.
func (h *Handler) authenticate(r *http.Request) (*credential.Caller, error) {
	if raw, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return h.byToken(r, raw)
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || r.Header.Get("Authorization") != "" {
		return nil, unauthenticated(errors.New("neither a bearer token nor a client certificate"))
	}
	c, err := h.cfg.Credentials.Certificate(r.Context(), r.TLS.PeerCertificates, h.cfg.ClientAuthorities())
	return c, asDenial(err)
}

// asDenial leaves the store's errors what they are: they say nothing about who asks.
func asDenial(err error) error {
	if err == nil || errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrTampered) || errors.Is(err, store.ErrClosed) || errors.Is(err, context.Canceled) {
		return err
	}
	return unauthenticated(err)
}

// byToken tries the kinds of tokens one after the other; each knows its own by key
// or issuer.
func (h *Handler) byToken(r *http.Request, raw string) (*credential.Caller, error) {
	ctx := r.Context()
	who, err := h.cfg.Providers.Authenticate(raw)
	if err == nil {
		c, err := h.cfg.Credentials.Identity(ctx, who.Actor, who.Subjects)
		return c, asDenial(err)
	}
	if !errors.Is(err, oidc.ErrNotOurs) {
		return nil, unauthenticated(err)
	}
	c, err := h.cfg.Credentials.Bearer(ctx, raw)
	if !errors.Is(err, trusteeapi.ErrNotBearer) {
		return c, asDenial(err)
	}
	now := h.cfg.Now()
	c, t, err := h.cfg.Credentials.Signed(ctx, raw, r.Method, r.URL.EscapedPath(), now)
	if err != nil {
		return nil, asDenial(err)
	}
	fresh, err := h.useOnce(ctx, t, now)
	if err != nil {
		return nil, err
	}
	if !fresh {
		return nil, unauthenticated(errors.New("token was used before"))
	}
	return c, nil
}

func unauthenticated(err error) error {
	return &denial.Denial{Reason: ReasonUnauthenticated, Component: Component, Claim: "admin token", Detail: fmt.Sprint(err)}
}
