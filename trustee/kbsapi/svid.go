package kbsapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/svid"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/identity"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// identities serves what attested guests are called (api/svid).
func (c *call) identities(path []string) {
	if len(path) != 2 || path[0] != svid.KindX509 && path[0] != svid.KindJWT || trusteeapi.CheckIdentityName(path[1]) != nil {
		httpio.WriteError(c.w, http.StatusNotFound, httpio.TypePath, fmt.Sprintf("%.60q not supported", strings.Join(path, "/")))
		return
	}
	method, give := http.MethodPost, c.certificate
	if path[0] == svid.KindJWT {
		method, give = http.MethodGet, c.jwt
	}
	if c.r.Method != method {
		httpio.WriteError(c.w, http.StatusMethodNotAllowed, httpio.TypePath, "method not allowed")
		return
	}
	token, err := c.token(c.r.Context())
	if err != nil {
		c.fail(err)
		return
	}
	if token == "" {
		httpio.WriteError(c.w, http.StatusUnauthorized, httpio.TypeToken, "Attestation Token not found")
		return
	}
	if err := give(path, release.Request{
		Resource: trusteeapi.IdentityResource(path[1]), Token: token, Query: parameters(c.r), Plugin: svid.Plugin, Path: path, Method: method,
	}); err != nil {
		c.fail(err)
	}
}

func (c *call) certificate(path []string, req release.Request) error {
	if c.r.URL.RawQuery != "" {
		return httpio.BadRequest(httpio.TypePath, "a query, and certificates have none")
	}
	b, done, ok := c.body(identity.MaxBody)
	if !ok {
		return nil
	}
	defer done()
	r, err := identity.ParseRequest(b)
	if err != nil {
		return httpio.BadRequest(httpio.TypePath, err.Error())
	}
	spki, err := r.SPKI()
	if err != nil {
		return err
	}
	req.IdentityKey = kbs.KeyBinding(spki)
	return c.use(req, true, func(ctx context.Context) ([]byte, error) { return c.h.cfg.Identities.X509(ctx, c.ns, path[1], r) })
}

func (c *call) jwt(path []string, req release.Request) error {
	audiences, err := svid.ParseAudiences(c.r.URL.RawQuery)
	if err != nil {
		return httpio.BadRequest(httpio.TypePath, err.Error())
	}
	// All of them are what a policy judges, not the last one alone.
	req.Query = map[string]string{svid.QueryAudience: strings.Join(audiences, ",")}
	return c.use(req, true, func(ctx context.Context) ([]byte, error) {
		return c.h.cfg.Identities.JWT(ctx, c.ns, path[1], audiences)
	})
}

// bundle serves what a namespace's identities are verified with, to anybody.
func (h *Handler) bundle(w http.ResponseWriter, r *http.Request) {
	ns := r.PathValue("ns")
	if ns == "" {
		ns = trusteeapi.DefaultNamespace
	}
	if trusteeapi.CheckNamespace(ns) != nil {
		httpio.WriteError(w, http.StatusNotFound, httpio.TypePath, "invalid namespace")
		return
	}
	b, err := h.cfg.Identities.Bundle(r.Context(), ns)
	switch {
	case errors.Is(err, tenant.ErrNotFound):
		httpio.WriteError(w, http.StatusNotFound, httpio.TypePath, "no such namespace, or it has no trust domain")
	case err != nil:
		h.cfg.Log.Error("giving the bundle failed", "error", err)
		httpio.WriteError(w, http.StatusServiceUnavailable, httpio.TypeInternal, "the bundle cannot be read")
	default:
		httpio.WriteJWKS(w, b)
	}
}
