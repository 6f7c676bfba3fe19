package kbsapi

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"
	"runtime/debug"
	"strconv"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/trustee/appraisal"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/respolicy"
	"github.com/cofferproject/coffer/trustee/session"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Reasons of denials of this package.
const (
	ReasonNonce denial.Reason = "nonce-mismatch"
)

// attest reads the evidence before it takes a slot, so that slow clients hold
// none.
func (c *call) attest() {
	cookie := c.cookie()
	if cookie == "" {
		httpio.WriteError(c.w, http.StatusUnauthorized, httpio.TypeAttestation, "RCAR handshake Attest failed: no session cookie")
		return
	}
	open, err := c.h.cfg.Sessions.Opened(c.r.Context(), c.ns, cookie)
	if err != nil {
		c.fail(err)
		return
	}
	c.rec.TEE = open.TEE
	b, done, ok := c.body(httpio.MaxBody)
	if !ok {
		return
	}
	defer done()
	c.limited(func() error { return c.verify(open, b) })
}

func (c *call) verify(open *session.Open, body []byte) error {
	ctx := c.r.Context()
	m, err := kbs.DecodeAttestation(body)
	if err != nil {
		return httpio.BadRequest(httpio.TypeAttestation, "RCAR handshake Attest failed: "+err.Error())
	}
	if !open.Answers(m.RuntimeData.Nonce) {
		want := open.Nonce
		if open.Asked != nil {
			want = "a text with SHA-256 " + hex.EncodeToString(open.Asked)
		}
		return &denial.Denial{
			Reason: ReasonNonce, Component: release.Component, Claim: "runtime-data nonce", Measured: m.RuntimeData.Nonce,
			Expected: want, Source: "challenge of this session",
		}
	}
	if err := c.bound(ctx, open, m.RuntimeData.Binding); err != nil {
		return err
	}
	c.rec.ID = record.NewID()
	res, err := c.appraise(ctx, open, m)
	if err != nil {
		return err
	}
	res.Describe(&c.rec)
	keep, err := record.Prepare(&c.rec)
	if err != nil {
		return err
	}
	cookie, err := c.h.cfg.Sessions.Complete(ctx, open, res.Token, res.Expires, keep)
	if full, ok := errors.AsType[*limits.Error](err); ok {
		return &denial.Denial{
			Reason: limits.Reason, Component: release.Component, Claim: string(full.Name), Measured: "one more", Expected: fmt.Sprintf("at most %d", full.Most),
			Source: "limits of namespace " + c.ns, Detail: full.Error(),
		}
	}
	if err != nil {
		return err
	}
	s := res.Primary()
	if err := c.h.cfg.Audit.Append(ctx, &audit.Entry{
		Kind: audit.KindAttest, Record: c.rec.ID, Namespace: c.ns, Peer: c.rec.Peer, TEE: open.TEE, Simulated: s.Coffer.Simulated,
		Status: string(s.Status), Initdata: s.Coffer.Initdata.String(), Token: res.ID,
	}); err != nil {
		return release.Unrecorded(release.Component, err)
	}
	c.setCookie(cookie, res.Expires)
	return httpio.WriteJSON(c.w, http.StatusOK, kbs.TokenResponse{Token: res.Token})
}

// appraise runs the verifier. A parser that panics on hostile evidence denies
// this one request.
func (c *call) appraise(ctx context.Context, open *session.Open, m *kbs.Attestation) (res *appraisal.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.h.cfg.Log.Error("verifier panicked", "tee", open.TEE, "panic", p, "stack", string(debug.Stack()))
			err = &denial.Denial{Reason: ReasonVerifierFault, Component: appraisal.Component, Claim: "evidence", Detail: "the verifier failed on this evidence"}
		}
	}()
	return c.h.cfg.Service.Attest(ctx, c.rec.ID, &appraisal.Attestation{
		Namespace: c.ns, TEE: open.TEE, Hash: open.Hash, Nonce: m.RuntimeData.Nonce, RequestExtra: open.Extra, Message: m, Peer: c.rec.Peer,
	})
}

// ReasonVerifierFault says that a verifier failed by a fault of its own.
const ReasonVerifierFault denial.Reason = "verifier-fault"

// fail answers an error.
func fail(c *call, err error) {
	var bad *httpio.Bad
	if errors.As(err, &bad) {
		httpio.WriteError(c.w, http.StatusBadRequest, bad.Type, bad.Detail)
		return
	}
	if errors.Is(err, tenant.ErrNotFound) {
		httpio.WriteError(c.w, http.StatusNotFound, httpio.TypePath, "no such namespace")
		return
	}
	d, ok := denial.As(err)
	if !ok {
		if c.r.Context().Err() == nil {
			c.h.cfg.Log.Error("request failed", "path", c.r.URL.Path, "error", err)
		}
		if httpio.WriteStoreError(c.w, err) {
			return
		}
		httpio.WriteError(c.w, http.StatusInternalServerError, httpio.TypeInternal, "internal error")
		return
	}
	if d.RecordID == "" {
		// Sessions that merely ended or never were are no decisions about anybody.
		if d.Component != session.Component || d.Reason == session.ReasonUsed || d.Reason == ReasonNonce || ofBinding(d.Reason) || d.Reason == release.ReasonAudit || d.Reason == limits.Reason {
			d = c.h.cfg.Book.Deny(c.r.Context(), c.rec, d)
		}
	}
	status, typ, text := answer(d)
	switch d.Reason {
	case release.ReasonStoreAway:
		c.w.Header().Set("Retry-After", "5")
	case limits.Reason:
		c.w.Header().Set("Retry-After", "60")
	}
	if c.h.cfg.Soon != nil {
		if wait := c.h.cfg.Soon(d); wait > 0 {
			c.w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		}
	}
	p := d.Public()
	httpio.Write(c.w, status, kbs.ErrorInfo{
		Type: httpio.TypePrefix + typ, Detail: text, Reason: string(p.Reason), Claim: p.Claim, Record: p.RecordID,
	})
}

// answer maps a denial to the published error.
func answer(d *denial.Denial) (status int, typ, text string) {
	switch d.Reason {
	case session.ReasonInvalid, session.ReasonExpired, session.ReasonUsed, ReasonNonce:
		return http.StatusUnauthorized, httpio.TypeAttestation, "Attestation error: RCAR handshake Attest failed: session"
	case release.ReasonTokenExpired, release.ReasonTokenInvalid, release.ReasonNamespace:
		return http.StatusUnauthorized, httpio.TypeTokenVerifier, "Token verification failed"
	case release.ReasonUnbound, release.ReasonNoInitdata, release.ReasonStatus, release.ReasonNamed, release.ReasonIdentityKey, release.ReasonPluginRefused, respolicy.ReasonDenied:
		return http.StatusForbidden, httpio.TypePolicy, "Access denied by policy"
	case release.ReasonAbsent, release.ReasonDeleted, release.ReasonExpired, release.ReasonUnversioned:
		return http.StatusNotFound, httpio.TypeNotFound, "Resource not found"
	case limits.Reason:
		return http.StatusTooManyRequests, httpio.TypeAttestation, "Attestation error: the namespace has as many sessions as it may"
	case appraisal.ReasonRemoteUnavailable:
		return http.StatusServiceUnavailable, httpio.TypeAttestation, "Attestation error: the attestation service does not answer"
	case release.ReasonStoreAway:
		return http.StatusServiceUnavailable, httpio.TypePluginInternal, "the secret's store does not answer"
	case release.ReasonStoreRefused, release.ReasonStoreMalformed, release.ReasonStoreUnknown:
		return http.StatusBadGateway, httpio.TypePluginInternal, "the secret's store gives nothing"
	case release.ReasonPlugin:
		return http.StatusBadGateway, httpio.TypePluginInternal, "Plugin internal error"
	case release.ReasonAudit, release.ReasonWitness:
		return http.StatusServiceUnavailable, httpio.TypeInternal, "audit log unavailable, so nothing is released"
	}
	if d.Component == policy.ResourceComponent { // one that failed allows nothing
		return http.StatusForbidden, httpio.TypePolicy, "Access denied by policy"
	}
	return http.StatusForbidden, httpio.TypeAttestation, "Attestation error: RCAR handshake Attest failed"
}
