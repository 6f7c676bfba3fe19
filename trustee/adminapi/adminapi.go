// Package adminapi serves the administration API (api/trusteeapi/SPEC.md) and the
// published administration of resources.
//
// Invariants: every route names the permission it needs, and a role has only
// what is listed for it; a token is good once; what changes anything is in the
// audit log before it happens; no answer carries a secret.
//
// Trust zone: trustee.
package adminapi

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/trustee/adminjwt"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/credential"
	"github.com/cofferproject/coffer/trustee/fetch"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/identity"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/oidc"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/respolicy"
	"github.com/cofferproject/coffer/trustee/shelf"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Config makes a Handler.
type Config struct {
	Store    store.Store
	Registry *tenant.Registry
	// Credentials say who may do what.
	Credentials *credential.Store
	// ClientAuthorities gives those whose client certificates count by their names; nil: none do.
	ClientAuthorities func() *x509.CertPool
	Gate              *release.Gate
	Book              *record.Book
	Audit             *audit.Log
	// TokenKeys sign attestation results.
	TokenKeys *keyring.TokenKeys
	// Identities issues those of guests.
	Identities *identity.Issuer
	// Checkpoints signs the end of the audit log.
	Checkpoints *audit.Checkpointer
	Bodies      *httpio.Budget
	Shelf       *shelf.Shelf
	// Fetcher gets collateral from vendors, or says that it gets none.
	Fetcher  *fetch.Fetcher
	Policies *respolicy.Policies
	Log      *slog.Logger
	Info     trusteeapi.Info
	Now      func() time.Time
	// Published takes administrators of identity providers on the published paths,
	// beside our own; nil: it takes none.
	Published *adminjwt.Config
	// Providers know administrators by tokens of OpenID Connect; nil: there are none.
	Providers *oidc.Providers
	// Backup writes the store, encrypted under the envelope key.
	Backup func(ctx context.Context, w io.Writer) error
	// Kept are namespaces that nobody deletes: this server serves them of itself.
	Kept []string
	// Replicas says that other processes serve the same store.
	Replicas bool
	// AdminTokens is how many used tokens are remembered at most.
	AdminTokens int
}

// Handler serves the API.
type Handler struct {
	cfg  Config
	once *onceOnly
}

// New refuses a configuration with a part missing.
func New(c Config) (*Handler, error) {
	if c.TokenKeys == nil || c.Identities == nil || c.Credentials == nil || c.ClientAuthorities == nil || c.Store == nil || c.Registry == nil || c.Gate == nil || c.Book == nil || c.Audit == nil || c.Checkpoints == nil || c.Bodies == nil || c.Shelf == nil || c.Fetcher == nil || c.Policies == nil || c.Backup == nil || c.Log == nil || c.Now == nil {
		return nil, errors.New("adminapi: a part of the configuration is missing")
	}
	if c.AdminTokens < 1 {
		return nil, errors.New("adminapi: no bound of administrators' tokens")
	}
	return &Handler{c, newOnceOnly(c.AdminTokens)}, nil
}

// route is one operation. Without a permission it cannot be served.
type route struct {
	method, path string
	need         Permission
	limit        int64 // of the body
	serve        func(*call) (any, error)
}

// call is one authenticated request.
type call struct {
	*Handler
	r      *http.Request
	body   []byte
	actor  string
	caller *credential.Caller
}

func (c *call) ctx() context.Context { return c.r.Context() }
func (c *call) ns() string           { return c.r.PathValue("ns") }

// resource gives the name in the path, checked.
func (c *call) resource() (string, error) {
	u := resourceURI(c.r.PathValue("repository"), c.r.PathValue("type"), c.r.PathValue("tag"))
	err := u.Validate()
	if err == nil && len(u.Name()) > httpio.MaxName {
		err = errors.New("resource name too long")
	}
	if err != nil {
		return "", httpio.BadRequest(httpio.TypePath, err.Error())
	}
	return u.Name(), nil
}

// Routes adds the API's paths to a mux.
func (h *Handler) Routes(mux *http.ServeMux) {
	for _, rt := range routes() {
		if rt.need == "" {
			continue // never served; a test finds it
		}
		mux.HandleFunc(rt.method+" "+trusteeapi.PathPrefix+rt.path, func(w http.ResponseWriter, r *http.Request) { h.handle(w, r, rt) })
	}
	mux.HandleFunc(trusteeapi.PathPrefix+"/", func(w http.ResponseWriter, r *http.Request) {
		if _, err := h.authorise(r, ReadInfo, scopeAny, ""); err != nil {
			h.fail(w, r, err)
			return
		}
		httpio.WriteError(w, http.StatusNotFound, httpio.TypePath, "no such path or method")
	})
}

func (h *Handler) handle(w http.ResponseWriter, r *http.Request, rt route) {
	w.Header().Set("Cache-Control", "no-store")
	caller, err := h.authorise(r, rt.need, rt.scope(), r.PathValue("ns"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	c := &call{Handler: h, r: r, actor: caller.Actor, caller: caller}
	if rt.limit > 0 {
		body, done, err := h.cfg.Bodies.Read(w, r, rt.limit)
		if err != nil {
			httpio.WriteBodyError(w, err)
			return
		}
		defer done()
		c.body = body
		if err := h.still(r.Context(), caller); err != nil {
			h.fail(w, r, err)
			return
		}
	}
	if rt.method != http.MethodGet && !slices.Contains(recordsItself, rt.method+" "+rt.path) {
		if err := h.record(r, r.PathValue("ns"), c.actor, rt.method+" "+rt.path); err != nil {
			h.fail(w, r, err)
			return
		}
	}
	out, err := rt.serve(c)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	switch v := out.(type) {
	case nil:
		w.WriteHeader(http.StatusNoContent)
	case lines:
		v.write(w)
	case paged:
		v.write(w)
	case stream:
		v.write(c, w)
	default:
		if err := httpio.WriteJSON(w, http.StatusOK, out); err != nil {
			h.fail(w, r, err)
		}
	}
}

// record puts a change into the audit log before it happens.
func (h *Handler) record(r *http.Request, ns, actor, action string) error {
	err := h.cfg.Audit.Append(r.Context(), &audit.Entry{
		Kind: audit.KindAdmin, Record: record.NewID(), Actor: actor, Action: action, Namespace: ns, Resource: short(r.URL.Path), Peer: r.RemoteAddr,
	})
	if err != nil {
		return release.Unrecorded(Component, err)
	}
	return nil
}

func short(s string) string {
	const most = 512
	if len(s) > most {
		return s[:most]
	}
	return s
}

// whose gives the namespace in whose records a refusal is kept: the path's, if
// there is one; nothing is kept about a namespace that nobody made.
func (h *Handler) whose(r *http.Request) string {
	ns := r.PathValue("ns")
	if ns == "" {
		return trusteeapi.DefaultNamespace
	}
	if _, err := h.cfg.Registry.Namespace(r.Context(), ns); err != nil {
		return trusteeapi.DefaultNamespace
	}
	return ns
}

// fail answers an error. Administrators are authenticated, so they see causes;
// faults of ours are for the log.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	// A policy that is refused is the administrator's input, not a refused person.
	if d, ok := denial.As(err); ok && !errors.Is(err, tenant.ErrInvalid) {
		if d.RecordID == "" {
			d = h.cfg.Book.Deny(r.Context(), trusteeapi.Record{
				Kind: "admin", Namespace: h.whose(r), Peer: r.RemoteAddr, Resource: short(r.URL.Path),
			}, d)
		}
		status, text := http.StatusUnauthorized, "administration: not authenticated"
		switch {
		case d.Reason == ReasonForbidden:
			status, text = http.StatusForbidden, "administration: not allowed"
		case d.Component == policy.ResourceComponent:
			status, text = http.StatusForbidden, "administration: denied by resource policy"
		case d.Reason == release.ReasonPlugin:
			status, text = http.StatusBadGateway, "administration: the plugin gave no answer"
		case d.Reason == release.ReasonAudit:
			status, text = http.StatusServiceUnavailable, "audit log unavailable, so nothing is changed"
		}
		httpio.Write(w, status, kbs.ErrorInfo{
			Type: httpio.TypePrefix + httpio.TypeAdmin, Detail: text, Reason: string(d.Reason), Claim: d.Claim, Record: d.RecordID,
		})
		return
	}
	var bad *httpio.Bad
	var full *limits.Error
	var kept *audit.Refusal
	switch {
	case errors.As(err, &bad):
		httpio.WriteError(w, http.StatusBadRequest, bad.Type, bad.Detail)
	case errors.Is(err, tenant.ErrInvalid):
		out := kbs.ErrorInfo{Type: httpio.TypePrefix + httpio.TypeSerde, Detail: err.Error()}
		if d, ok := denial.As(err); ok {
			out.Reason, out.Claim = string(d.Reason), d.Claim
		}
		httpio.Write(w, http.StatusBadRequest, out)
	case errors.Is(err, tenant.ErrNotFound), errors.Is(err, record.ErrNotFound), errors.Is(err, shelf.ErrNotFound):
		httpio.WriteError(w, http.StatusNotFound, httpio.TypeNotFound, err.Error())
	case errors.As(err, &full):
		status := http.StatusConflict
		if full.Name == limits.AdminTokens { // later there is room again
			status = http.StatusTooManyRequests
			w.Header().Set("Retry-After", "60")
		}
		httpio.Write(w, status, kbs.ErrorInfo{
			Type: httpio.TypePrefix + httpio.TypeAdmin, Detail: err.Error(), Reason: string(limits.Reason), Claim: string(full.Name),
		})
	case errors.As(err, &kept):
		httpio.Write(w, http.StatusConflict, kbs.ErrorInfo{
			Type: httpio.TypePrefix + httpio.TypeAdmin, Detail: err.Error(), Reason: string(kept.Reason), Claim: "audit log",
		})
	case errors.Is(err, audit.ErrNoLog):
		httpio.WriteError(w, http.StatusNotFound, httpio.TypeNotFound, err.Error())
	case errors.Is(err, tenant.ErrConflict):
		httpio.WriteError(w, http.StatusConflict, httpio.TypeSerde, err.Error())
	default:
		h.cfg.Log.Error("administration failed", "path", r.URL.Path, "error", err)
		if httpio.WriteStoreError(w, err) {
			return
		}
		httpio.WriteError(w, http.StatusInternalServerError, httpio.TypeInternal, "internal error")
	}
}
