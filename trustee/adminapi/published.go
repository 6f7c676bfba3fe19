package adminapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/trustee/adminjwt"
	"github.com/cofferproject/coffer/trustee/asapi"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Published paths of the administration beside resources, relative to /kbs/v0.
const (
	pathPolicy         = "attestation-policy"
	pathReferenceValue = "reference-value"
	pathResourcePolicy = "resource-policy"
)

// IsPublishedTrust reports a method and path that PublishedTrust serves.
func IsPublishedTrust(method string, path []string) bool {
	get, post := method == http.MethodGet, method == http.MethodPost
	switch path[0] {
	case pathPolicy:
		return post && len(path) == 1
	case pathReferenceValue:
		return post && len(path) == 1 || get && len(path) > 1
	case pathResourcePolicy:
		return (get || post) && len(path) == 1
	}
	return false
}

// PublishedTrust serves the published administration of policies, resource policies
// and reference values; false: it has no such path or method, and has not answered.
func (h *Handler) PublishedTrust(w http.ResponseWriter, r *http.Request, ns string, path []string) bool {
	if !IsPublishedTrust(r.Method, path) {
		return false
	}
	if err := h.publishedTrust(w, r, ns, path); err != nil {
		h.fail(w, r, err)
	}
	return true
}

// PublishedPlugin has handle answer a request to a plugin that is an administrator's.
func (h *Handler) PublishedPlugin(w http.ResponseWriter, r *http.Request, ns, path string, handle func(ctx context.Context, actor string) ([]byte, error)) {
	actor, _, err := h.authenticatePublished(r, WriteSecrets, ns)
	if err == nil {
		err = h.record(r, ns, actor, r.Method+" /kbs/v0/"+short(path))
	}
	var b []byte
	if err == nil {
		b, err = handle(r.Context(), actor)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(b)
}

// authenticatePublished takes our own credential, or an administrator of an identity
// provider whose role has the path. The query is no part of it. still is to be asked
// again after a body was read.
func (h *Handler) authenticatePublished(r *http.Request, need Permission, ns string) (actor string, still func() error, err error) {
	c, err := h.authorise(r, need, scopeNamespace, ns)
	if err == nil {
		return c.Actor, func() error { return h.still(r.Context(), c) }, nil
	}
	d, ok := denial.As(err)
	if !ok || d.Reason != ReasonUnauthenticated || h.cfg.Published == nil {
		return "", nil, err
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return "", nil, err
	}
	provided := func() (string, error) {
		actor, err := h.cfg.Published.Authenticate(token, r.URL.EscapedPath(), h.cfg.Now())
		switch {
		case errors.Is(err, adminjwt.ErrForbidden):
			return "", &denial.Denial{Reason: ReasonForbidden, Component: Component, Claim: string(need), Measured: actor, Source: "acls of the configuration file"}
		case err != nil:
			return "", unauthenticated(err)
		}
		return actor, nil
	}
	if actor, err = provided(); err != nil {
		return "", nil, err
	}
	// What nobody takes back can expire still.
	return actor, func() error { _, err := provided(); return err }, nil
}

func (h *Handler) publishedTrust(w http.ResponseWriter, r *http.Request, ns string, path []string) error {
	need := WriteTrust
	if r.Method == http.MethodGet {
		need = ReadTenant
	}
	actor, still, err := h.authenticatePublished(r, need, ns)
	if err != nil {
		return err
	}
	if r.Method == http.MethodGet {
		if path[0] == pathResourcePolicy {
			return h.resourcePolicies(w, r, ns)
		}
		return h.referenceValue(w, r, ns, strings.Join(path[1:], "/"))
	}
	body, done, err := h.cfg.Bodies.Read(w, r, httpio.MaxBody)
	if err != nil {
		httpio.WriteBodyError(w, err)
		return nil
	}
	defer done()
	if err := still(); err != nil {
		return err
	}
	if err := h.record(r, ns, actor, "POST /kbs/v0/"+path[0]); err != nil {
		return err
	}
	switch path[0] {
	case pathPolicy:
		return h.setPolicy(r, ns, actor, body)
	case pathResourcePolicy:
		return h.setResourcePolicy(r, ns, actor, body)
	}
	w.Header().Set("Content-Type", "application/json")
	return asapi.Register(r.Context(), h.cfg.Registry, ns, actor, body)
}

// setPolicy takes {"type", "policy_id", "policy"}; type is not looked at, as
// published.
func (h *Handler) setPolicy(r *http.Request, ns, actor string, body []byte) error {
	var doc struct {
		Type   string `json:"type"`
		ID     string `json:"policy_id"`
		Policy string `json:"policy"`
	}
	if err := decodePublished(body, &doc); err != nil {
		return err
	}
	text, err := policyText(doc.Policy)
	if err != nil {
		return err
	}
	_, err = h.cfg.Registry.SetPolicy(r.Context(), ns, doc.ID, actor, text)
	return err
}

// setResourcePolicy takes {"policy"}. The published path knows one policy, which is
// asked about every read of a guest and about no change of an administrator. One of
// the same name with another selection is somebody's intent, and stays.
func (h *Handler) setResourcePolicy(r *http.Request, ns, actor string, body []byte) error {
	var doc struct {
		Policy string `json:"policy"`
	}
	if err := decodePublished(body, &doc); err != nil {
		return err
	}
	text, err := policyText(doc.Policy)
	if err != nil {
		return err
	}
	next := trusteeapi.ResourcePolicy{Name: pathResourcePolicy, Resources: "*", Methods: []string{trusteeapi.MethodGet}, Text: text}
	_, err = h.cfg.Policies.PutOver(r.Context(), ns, next, actor, func(have *trusteeapi.ResourcePolicy) error {
		if have.Resources != next.Resources || !slices.Equal(have.Methods, next.Methods) {
			return fmt.Errorf("resource policy %q is set for other resources or methods than this path's: %w", have.Name, tenant.ErrConflict)
		}
		return nil
	})
	return err
}

// resourcePolicies answers with the names of the policies in force, as published.
func (h *Handler) resourcePolicies(w http.ResponseWriter, r *http.Request, ns string) error {
	all, err := h.cfg.Policies.List(r.Context(), ns)
	if err != nil {
		return err
	}
	names := []string{}
	for _, p := range all {
		names = append(names, p.Name)
	}
	return httpio.WriteJSON(w, http.StatusOK, names)
}

// decodePublished reads one document and nothing after it.
func decodePublished(body []byte, doc any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(doc); err != nil {
		return httpio.BadRequest(httpio.TypeSerde, "request: "+err.Error())
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return httpio.BadRequest(httpio.TypeSerde, "request: data after the document")
	}
	return nil
}

// policyText decodes a policy as the published paths carry it.
func policyText(encoded string) (string, error) {
	text, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(encoded, "="))
	if err != nil || len(text) > policy.MaxSize {
		return "", httpio.BadRequest(httpio.TypeSerde, fmt.Sprintf("policy: not base64url, or more than %d bytes", policy.MaxSize))
	}
	return string(text), nil
}

func (h *Handler) referenceValue(w http.ResponseWriter, r *http.Request, ns, name string) error {
	v, ok, err := h.cfg.Registry.ReferenceValue(r.Context(), ns, name)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("reference value %.128q: %w", name, tenant.ErrNotFound)
	}
	return httpio.WriteJSON(w, http.StatusOK, v)
}
