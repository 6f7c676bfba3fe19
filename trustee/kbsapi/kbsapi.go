// Package kbsapi serves KBS protocol 0.4.0 as published (RCAR handshake and
// resources), for every namespace under its own base path.
//
// Invariants: /auth stores nothing; a refusal tells the peer reason, claim and
// record id and never what was measured or expected; bodies are bounded one by
// one and together; how many attestations are verified at once is bounded.
//
// Trust zone: trustee. Everything that comes in is hostile.
package kbsapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/resource"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/appraisal"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/identity"
	"github.com/cofferproject/coffer/trustee/nebulaca"
	"github.com/cofferproject/coffer/trustee/plugin"
	"github.com/cofferproject/coffer/trustee/provisioner"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/session"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// slots is how many attestations are verified at once for each processor; most
// of their time they wait for the disk.
const slots = 16

const maxTEE = 64 // characters of a TEE's wire name

// AdminResources serves the published administration, which package adminapi
// owns: it authenticates, audits and answers.
type AdminResources interface {
	// PublishedResource serves POST and DELETE of a resource.
	PublishedResource(w http.ResponseWriter, r *http.Request, ns, name string)
	// PublishedTrust serves attestation-policy, reference-value and resource-policy,
	// path[0]; false: there is no such path or method.
	PublishedTrust(w http.ResponseWriter, r *http.Request, ns string, path []string) bool
	// PublishedPlugin has handle answer an administrator's request to a plugin.
	PublishedPlugin(w http.ResponseWriter, r *http.Request, ns, path string, handle func(ctx context.Context, actor string) ([]byte, error))
}

// Appraiser judges evidence: appraisal.Service, or one that has another process do
// it.
type Appraiser interface {
	// Challenge gives the challenge of a session and the hash algorithm that it selects.
	Challenge(ctx context.Context, ns string, req *kbs.Request, nonce string) (*kbs.Challenge, string, error)
	// Attest verifies and appraises evidence and issues a token with the given id.
	Attest(ctx context.Context, id string, a *appraisal.Attestation) (*appraisal.Result, error)
}

// Config makes a Handler.
type Config struct {
	Service  Appraiser
	Gate     *release.Gate
	Sessions *session.Manager
	Registry *tenant.Registry
	Book     *record.Book
	Audit    *audit.Log
	Admin    AdminResources
	// Plugins are asked over gRPC; nil: there are none.
	Plugins *plugin.Host
	// Provisioner makes keys of disks; nil: it does not.
	Provisioner *provisioner.Plugin
	// Nebula makes credentials of overlay networks; nil: it does not.
	Nebula *nebulaca.CA
	// Identities issues those of guests.
	Identities *identity.Issuer
	Bodies     *httpio.Budget
	Log        *slog.Logger
	// Soon says when the cause of a denial may be gone; nil, or 0: nobody knows.
	Soon func(*denial.Denial) time.Duration
	// JWKS gives a namespace's key set.
	JWKS func(ctx context.Context, ns string) ([]byte, error)
}

// Handler serves the protocol.
type Handler struct {
	cfg  Config
	work chan struct{} // slots of verification
}

// New refuses a configuration with a part missing.
func New(c Config) (*Handler, error) {
	if c.Service == nil || c.Gate == nil || c.Sessions == nil || c.Registry == nil || c.Book == nil || c.Audit == nil || c.Admin == nil || c.Bodies == nil || c.Log == nil || c.JWKS == nil || c.Identities == nil {
		return nil, errors.New("kbsapi: a part of the configuration is missing")
	}
	return &Handler{c, make(chan struct{}, slots*runtime.GOMAXPROCS(0))}, nil
}

// Routes adds the protocol's paths to a mux.
func (h *Handler) Routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	for _, base := range []string{"", "/ns/{ns}"} {
		mux.HandleFunc("GET "+base+"/.well-known/jwks.json", h.jwks)
		mux.HandleFunc("GET "+base+"/.well-known/spiffe-bundle.json", h.bundle)
		mux.HandleFunc(base+kbs.PathPrefix+"/{path...}", h.serve)
	}
}

func (h *Handler) jwks(w http.ResponseWriter, r *http.Request) {
	ns := r.PathValue("ns")
	if ns == "" {
		ns = trusteeapi.DefaultNamespace
	}
	b, err := h.cfg.JWKS(r.Context(), ns)
	switch {
	case errors.Is(err, tenant.ErrNotFound):
		httpio.WriteError(w, http.StatusNotFound, httpio.TypePath, "no such namespace")
	case err != nil:
		h.cfg.Log.Error("giving the key set failed", "error", err)
		httpio.WriteError(w, http.StatusServiceUnavailable, httpio.TypeInternal, "the key set cannot be read")
	default:
		httpio.WriteJWKS(w, b)
	}
}

// call is one request.
type call struct {
	h    *Handler
	w    http.ResponseWriter
	r    *http.Request
	ns   string
	base string // path prefix of the namespace, for cookies
	rec  trusteeapi.Record
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) {
	c := &call{h: h, w: w, r: r, ns: trusteeapi.DefaultNamespace, base: kbs.PathPrefix}
	if ns := r.PathValue("ns"); ns != "" {
		if trusteeapi.CheckNamespace(ns) != nil {
			httpio.WriteError(w, http.StatusNotFound, httpio.TypePath, "invalid namespace")
			return
		}
		c.ns, c.base = ns, "/ns/"+ns+kbs.PathPrefix
		// First of all: nothing is ever kept about a namespace that nobody made.
		if err := h.cfg.Registry.Exists(r.Context(), ns); err != nil {
			c.fail(err)
			return
		}
	}
	c.rec = trusteeapi.Record{Namespace: c.ns, Peer: r.RemoteAddr}
	path := strings.Split(r.PathValue("path"), "/")
	switch {
	case r.Method == http.MethodPost && len(path) == 1 && path[0] == "auth":
		c.rec.Kind = "auth"
		c.auth()
	case r.Method == http.MethodPost && len(path) == 1 && path[0] == "attest":
		c.rec.Kind = "attest"
		c.attest()
	case path[0] == resource.PluginResource && len(path) > 1:
		c.resource(path[1:])
	case path[0] == external && len(path) > 1 && h.cfg.Plugins.Has(path[1]):
		c.ask(asked{path[1], path[:2]}, path[2:])
	case path[0] == PKCS11 && len(path) > 1 && h.cfg.Plugins.Has(PKCS11):
		c.ask(asked{PKCS11, path[:1]}, path[1:])
	case path[0] == provisioner.Name && h.cfg.Provisioner != nil:
		c.provision(path[1:])
	case path[0] == nebulaca.Name && h.cfg.Nebula != nil:
		c.nebula(path[1:])
	case path[0] == identity.Name:
		c.identities(path[1:])
	case h.cfg.Admin.PublishedTrust(w, r, c.ns, path):
	default:
		httpio.WriteError(w, http.StatusNotFound, httpio.TypePlugin, fmt.Sprintf("plugin %.60q not found", path[0]))
	}
}

// limited runs work when there is a slot; a server that stays busy says so.
func (c *call) limited(work func() error) {
	t := time.NewTimer(2 * time.Second)
	defer t.Stop()
	select {
	case c.h.work <- struct{}{}:
		defer func() { <-c.h.work }()
	case <-t.C:
		c.w.Header().Set("Retry-After", "1")
		httpio.WriteError(c.w, http.StatusTooManyRequests, httpio.TypeAttestation, "too many attestations at once")
		return
	case <-c.r.Context().Done():
		return
	}
	if err := work(); err != nil {
		c.fail(err)
	}
}

// body reads the whole body; false: it has answered.
func (c *call) body(limit int64) ([]byte, func(), bool) {
	b, done, err := c.h.cfg.Bodies.Read(c.w, c.r, limit)
	if err != nil {
		httpio.WriteBodyError(c.w, err)
		return nil, nil, false
	}
	return b, done, true
}

// auth reads the request before it takes a slot, so that slow clients hold none.
func (c *call) auth() {
	b, done, ok := c.body(kbs.MaxRequest)
	if !ok {
		return
	}
	defer done()
	c.limited(func() error { return c.challenge(b) })
}

func (c *call) challenge(b []byte) error {
	req, err := kbs.DecodeRequest(b)
	if err != nil {
		return httpio.BadRequest(httpio.TypeAttestation, "RCAR handshake Auth failed: "+err.Error())
	}
	if !versionFits(req.Version) {
		return httpio.BadRequest(httpio.TypeAttestation, fmt.Sprintf(
			"Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: expect =%s while the request is %.40s",
			kbs.ProtocolVersion, req.Version))
	}
	if len(req.TEE) > maxTEE {
		return httpio.BadRequest(httpio.TypeAttestation, "RCAR handshake Auth failed: tee: too long")
	}
	c.rec.TEE = req.TEE
	nonce := session.NewNonce()
	challenge, alg, err := c.h.cfg.Service.Challenge(c.r.Context(), c.ns, req, nonce)
	if err != nil {
		return err
	}
	open := session.Open{Namespace: c.ns, TEE: req.TEE, Nonce: nonce, Hash: alg, Extra: req.ExtraParams}
	if open.Binding, err = c.confirm(req, challenge); err != nil {
		return err
	}
	open.Ask(challenge.Nonce)
	cookie, expires, err := c.h.cfg.Sessions.Begin(open)
	if err != nil {
		return err
	}
	c.setCookie(cookie, expires)
	return httpio.WriteJSON(c.w, http.StatusOK, challenge)
}

// versionFits takes the patch releases of the one version.
func versionFits(v string) bool {
	p, ok := strings.CutPrefix(v, "0.4.")
	return ok && p != "" && len(p) < 4 && strings.Trim(p, "0123456789") == ""
}

func (c *call) setCookie(value string, expires time.Time) {
	http.SetCookie(c.w, &http.Cookie{
		Name: kbs.SessionCookie, Value: value, Path: c.base, Expires: expires.UTC(), HttpOnly: true, Secure: true, SameSite: http.SameSiteStrictMode,
	})
}

func (c *call) cookie() string {
	k, err := c.r.Cookie(kbs.SessionCookie)
	if err != nil {
		return ""
	}
	return k.Value
}

// resource serves one resource; the attested read goes through the gate.
func (c *call) resource(path []string) {
	u := &resource.URI{Plugin: resource.PluginResource, Path: path, Query: c.r.URL.RawQuery}
	err := u.Validate()
	if err == nil && len(u.Name()) > httpio.MaxName {
		err = errors.New("resource name too long")
	}
	if err != nil {
		httpio.WriteError(c.w, http.StatusBadRequest, httpio.TypePath, err.Error())
		return
	}
	switch c.r.Method {
	case http.MethodGet:
		if err := c.read(release.Request{Resource: u.Name()}); err != nil {
			c.fail(err)
		}
	case http.MethodPost, http.MethodDelete:
		c.h.cfg.Admin.PublishedResource(c.w, c.r, c.ns, u.Name())
	default:
		httpio.WriteError(c.w, http.StatusMethodNotAllowed, httpio.TypePath, "method not allowed")
	}
}

// read releases the secret that req names; what every read has is filled in here.
func (c *call) read(req release.Request) error {
	ctx := c.r.Context()
	token, err := c.token(ctx)
	if err != nil {
		return err
	}
	if token == "" {
		httpio.WriteError(c.w, http.StatusUnauthorized, httpio.TypeToken, "Attestation Token not found")
		return nil
	}
	v, err := kbs.ParseVersionQuery(c.r.URL.RawQuery)
	if err != nil {
		return httpio.BadRequest(httpio.TypePath, err.Error())
	}
	if v.Wait > 0 {
		c.patient(v.Wait)
	}
	req.Namespace, req.Token, req.Peer, req.Query = c.ns, token, c.r.RemoteAddr, parameters(c.r)
	req.Version, req.After = v.Version, v.After
	out, err := c.h.cfg.Gate.Await(ctx, req, v.Wait)
	switch {
	case errors.Is(err, release.ErrNotNewer):
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	case errors.Is(err, release.ErrBusy):
		c.w.Header().Set("Retry-After", "5")
		httpio.WriteError(c.w, http.StatusTooManyRequests, httpio.TypePlugin, err.Error())
		return nil
	case err != nil:
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.w.Header().Set("Cache-Control", "no-store")
	if out.Version != 0 {
		c.w.Header().Set(kbs.VersionHeader, strconv.FormatUint(out.Version, 10))
	}
	c.h.cfg.Gate.Delivered(out, c.deliver(out.JWE))
	return nil
}

// deliver writes a whole answer and reports whether the network took all of it.
func (c *call) deliver(b []byte) error {
	c.w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	if _, err := c.w.Write(b); err != nil {
		return c.gone(err)
	}
	if err := http.NewResponseController(c.w).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return c.gone(err)
	}
	return nil
}

// gone adds to an error of writing that the peer has hung up, if the server has
// noticed.
func (c *call) gone(err error) error { return errors.Join(err, c.r.Context().Err()) }

// token gives the session's token, else the bearer's; "": none.
func (c *call) token(ctx context.Context) (string, error) {
	if k := c.cookie(); k != "" {
		t, err := c.h.cfg.Sessions.Token(ctx, c.ns, k)
		if err == nil || !errors.Is(err, session.ErrNone) {
			return t, err
		}
	}
	t, _ := strings.CutPrefix(c.r.Header.Get("Authorization"), "Bearer ")
	return t, nil
}

// parameters gives the query as resource policies see it: of a name that is given
// twice the last value, as published.
func parameters(r *http.Request) map[string]string {
	out := map[string]string{}
	for k, v := range r.URL.Query() {
		out[k] = v[len(v)-1]
	}
	return out
}

// patient gives a connection the time that its request may wait. Where the server
// below has no deadlines there is nothing to move.
func (c *call) patient(wait time.Duration) {
	const margin = 10 * time.Second
	rc, until := http.NewResponseController(c.w), time.Now().Add(wait+margin)
	if err := errors.Join(rc.SetReadDeadline(until), rc.SetWriteDeadline(until)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		c.h.cfg.Log.Debug("moving deadlines failed", "error", err)
	}
}

// fail answers an error. What is neither a denial nor the peer's mistake is a
// fault of ours: its cause is for the log alone.
func (c *call) fail(err error) { fail(c, err) }
