package adminapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/resource"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/trustee/fetch"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/shelf"
	"github.com/cofferproject/coffer/trustee/tenant"
)

const (
	small      = 64 << 10
	maxSeal    = 1 << 20 // a seal as a JSON string
	auditLines = 1000
	auditBytes = 1 << 20
	// a policy's text as a JSON string, with room for what surrounds it
	maxPolicyTest = 2*policy.MaxSize + small
)

// routes lists every operation.
func routes() []route {
	const (
		ns  = "/namespaces/{ns}"
		res = "/{repository}/{type}/{tag}"
	)
	return append(slices.Concat(accessRoutes(), identityRoutes(), auditRoutes()), []route{
		{"GET", "/info", ReadInfo, 0, func(c *call) (any, error) { return c.cfg.Info, nil }},
		{"POST", "/backup", MakeBackup, small, func(c *call) (any, error) { return stream(c.cfg.Backup), nil }},
		{"GET", "/attestations/{id}", ReadRecords, 0, (*call).attestation},

		{"GET", "/namespaces", ReadTenant, 0, (*call).namespaces},
		{"POST", "/namespaces", WriteNamespaces, small, (*call).createNamespace},
		{"GET", ns, ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Registry.Namespace(c.ctx(), c.ns()) }},
		{"POST", ns + "/deletion", WriteNamespaces, small, (*call).deleteNamespace},
		{"GET", ns + "/attestations", ReadRecords, 0, (*call).attestations},

		{"GET", ns + "/owners", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Registry.Owners(c.ctx(), c.ns()) }},
		{"POST", ns + "/owners", WriteOwners, small, (*call).addOwner},
		{"DELETE", ns + "/owners/{id}", WriteOwners, 0, func(c *call) (any, error) {
			return nil, c.cfg.Registry.DeleteOwner(c.ctx(), c.ns(), c.r.PathValue("id"))
		}},

		{"GET", ns + "/seals", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Registry.Seals(c.ctx(), c.ns()) }},
		{"POST", ns + "/seals", WriteSeals, maxSeal, (*call).registerSeal},
		{"GET", ns + "/seals/{id}", ReadTenant, 0, func(c *call) (any, error) {
			return c.cfg.Registry.Seal(c.ctx(), c.ns(), c.r.PathValue("id"))
		}},
		{"DELETE", ns + "/seals/{id}", WriteSeals, 0, func(c *call) (any, error) {
			return nil, c.cfg.Registry.DeleteSeal(c.ctx(), c.ns(), c.r.PathValue("id"))
		}},

		{"GET", ns + "/resources", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Gate.List(c.ctx(), c.ns()) }},
		{"PUT", ns + "/resources" + res, WriteSecrets, kbs.MaxResource, (*call).putResource},
		{"DELETE", ns + "/resources" + res, WriteSecrets, 0, (*call).deleteResource},
		{"GET", ns + "/resources" + res + "/versions", ReadTenant, 0, (*call).history},
		{"POST", ns + "/resources" + res + "/versions/{version}/{change}", WriteSecrets, small, (*call).changeVersion},

		{"GET", ns + "/secret-stores", ReadTenant, 0, (*call).secretStores},
		{"GET", ns + "/outside", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Gate.Mapped(c.ctx(), c.ns()) }},
		{"PUT", ns + "/outside" + res, MapSecrets, small, (*call).mapSecret},
		{"DELETE", ns + "/outside" + res, MapSecrets, 0, (*call).unmapSecret},

		{"GET", ns + "/bindings" + res, ReadTenant, 0, (*call).binding},
		{"POST", ns + "/bindings" + res, WriteBindings, small, (*call).bind},
		{"DELETE", ns + "/bindings" + res, WriteBindings, 0, (*call).unbind},

		{"GET", ns + "/reference-values", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Registry.ReferenceValues(c.ctx(), c.ns()) }},
		{"PUT", ns + "/reference-values/{name}", WriteTrust, refvalue.MaxSize, func(c *call) (any, error) {
			return c.cfg.Registry.RegisterReferenceValues(c.ctx(), c.ns(), c.r.PathValue("name"), c.actor, c.body)
		}},
		{"DELETE", ns + "/reference-values/{name}", WriteTrust, 0, func(c *call) (any, error) {
			return nil, c.cfg.Registry.DeleteReferenceValues(c.ctx(), c.ns(), c.r.PathValue("name"))
		}},

		{"GET", ns + "/ek-roots", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Registry.EKRoots(c.ctx(), c.ns()) }},
		{"POST", ns + "/ek-roots", WriteTrust, small, (*call).addEKRoot},
		{"DELETE", ns + "/ek-roots/{id}", WriteTrust, 0, func(c *call) (any, error) {
			return nil, c.cfg.Registry.DeleteEKRoot(c.ctx(), c.ns(), c.r.PathValue("id"))
		}},

		{"GET", ns + "/roots", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Registry.EKRoots(c.ctx(), c.ns()) }},
		{"POST", ns + "/roots", WriteTrust, small, (*call).addEKRoot},
		{"DELETE", ns + "/roots/{id}", WriteTrust, 0, func(c *call) (any, error) {
			return nil, c.cfg.Registry.DeleteEKRoot(c.ctx(), c.ns(), c.r.PathValue("id"))
		}},

		{"PUT", ns + "/allow-unproven", WriteTrust, small, (*call).allowUnproven},
		{"PUT", ns + "/quotas", WriteNamespaces, small, func(c *call) (any, error) {
			b, err := decode[trusteeapi.Quotas](c)
			if err != nil {
				return nil, err
			}
			return c.cfg.Registry.SetQuotas(c.ctx(), c.ns(), b.Quotas)
		}},
		{"PUT", ns + "/channel-binding", WriteTrust, small, func(c *call) (any, error) {
			b, err := decode[trusteeapi.ChannelBinding](c)
			if err != nil {
				return nil, err
			}
			return c.cfg.Registry.SetChannelBinding(c.ctx(), c.ns(), b.Required)
		}},

		{"GET", ns + "/policies", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Registry.Policies(c.ctx(), c.ns()) }},
		{"GET", ns + "/policies/{name}", ReadTenant, 0, func(c *call) (any, error) {
			version, err := c.version()
			if err != nil {
				return nil, err
			}
			return c.cfg.Registry.PolicyVersion(c.ctx(), c.ns(), c.r.PathValue("name"), version)
		}},
		{"PUT", ns + "/policies/{name}", WriteTrust, policy.MaxSize, func(c *call) (any, error) {
			return c.cfg.Registry.SetPolicy(c.ctx(), c.ns(), c.r.PathValue("name"), c.actor, string(c.body))
		}},
		{"DELETE", ns + "/policies/{name}", WriteTrust, 0, func(c *call) (any, error) {
			return nil, c.cfg.Registry.DeletePolicy(c.ctx(), c.ns(), c.r.PathValue("name"))
		}},

		{"GET", ns + "/policies/{name}/versions", ReadTenant, 0, func(c *call) (any, error) {
			return c.cfg.Registry.PolicyVersions(c.ctx(), c.ns(), c.r.PathValue("name"))
		}},
		{"PUT", ns + "/appraisal-policy", WriteTrust, small, (*call).chooseAppraisal},
		{"POST", ns + "/policy-tests", WriteTrust, maxPolicyTest, (*call).testPolicy},

		{"GET", ns + "/resource-policies", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Policies.List(c.ctx(), c.ns()) }},
		{"GET", ns + "/resource-policies/{name}", ReadTenant, 0, (*call).resourcePolicy},
		{"GET", ns + "/resource-policies/{name}/versions", ReadTenant, 0, func(c *call) (any, error) {
			return c.cfg.Policies.History(c.ctx(), c.ns(), c.r.PathValue("name"))
		}},
		{"PUT", ns + "/resource-policies/{name}", WriteTrust, maxPolicyTest, (*call).putResourcePolicy},
		{"DELETE", ns + "/resource-policies/{name}", WriteTrust, 0, func(c *call) (any, error) {
			return nil, c.cfg.Policies.Delete(c.ctx(), c.ns(), c.r.PathValue("name"))
		}},

		{"GET", ns + "/anchors", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Registry.Anchors(c.ctx(), c.ns()) }},
		{"PUT", ns + "/anchors/{tee}/{name}", WriteTrust, kbs.MaxResource, func(c *call) (any, error) {
			return c.cfg.Registry.SetAnchor(c.ctx(), c.ns(), c.r.PathValue("tee"), c.r.PathValue("name"), c.actor, c.body)
		}},
		{"DELETE", ns + "/anchors/{tee}/{name}", WriteTrust, 0, func(c *call) (any, error) {
			return nil, c.cfg.Registry.DeleteAnchor(c.ctx(), c.ns(), c.r.PathValue("tee"), c.r.PathValue("name"))
		}},

		{"GET", "/collateral", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Shelf.List(), nil }},
		{"GET", "/collateral/status", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Fetcher.Status(c.ctx()) }},
		{"GET", "/collateral/bundle", ReadTenant, 0, (*call).exportCollateral},
		{"POST", "/collateral/wanted", WriteCollateral, small, (*call).wantCollateral},
		{"POST", "/collateral", WriteCollateral, collateral.MaxBundle, (*call).importCollateral},
		{"DELETE", "/collateral", WriteCollateral, 0, func(c *call) (any, error) {
			return nil, c.cfg.Shelf.Delete(c.ctx(), c.r.URL.Query().Get("origin"))
		}},

		{"GET", ns + "/enrolled-aks", ReadTenant, 0, func(c *call) (any, error) { return c.cfg.Registry.EnrolledAKs(c.ctx(), c.ns()) }},
		{"POST", ns + "/enrolled-aks", WriteTrust, small, (*call).enrollAK},
		{"DELETE", ns + "/enrolled-aks/{name}", WriteTrust, 0, func(c *call) (any, error) {
			return nil, c.cfg.Registry.DeleteAK(c.ctx(), c.ns(), c.r.PathValue("name"))
		}},
	}...)
}

// decode reads a request document strictly.
func decode[T any](c *call) (*T, error) {
	d := json.NewDecoder(bytes.NewReader(c.body))
	d.DisallowUnknownFields()
	v := new(T)
	if err := d.Decode(v); err != nil {
		return nil, httpio.BadRequest(httpio.TypeSerde, "request: "+err.Error())
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, httpio.BadRequest(httpio.TypeSerde, "request: data after the document")
	}
	return v, nil
}

func (c *call) createNamespace() (any, error) {
	n, err := decode[trusteeapi.Namespace](c)
	if err != nil {
		return nil, err
	}
	return c.cfg.Registry.CreateNamespace(c.ctx(), *n)
}

// deleteNamespace is both steps: what is in the namespace and the word that confirms, and
// with that word the deletion.
func (c *call) deleteNamespace() (any, error) {
	in, err := decode[trusteeapi.NamespaceDeletion](c)
	if err != nil {
		return nil, err
	}
	if in.Namespace != "" || in.Secrets != 0 || !in.Expires.IsZero() || in.Confirm == "" && in.DestroySecrets {
		return nil, httpio.BadRequest(httpio.TypeSerde, "the request has confirm, and with it destroy_secrets, and nothing else")
	}
	ns := c.ns()
	if slices.Contains(c.cfg.Kept, ns) {
		return nil, fmt.Errorf("namespace %s is this trustee's own: %w", ns, tenant.ErrConflict)
	}
	if in.Confirm == "" {
		return c.cfg.Registry.PrepareDeletion(c.ctx(), ns, release.Held)
	}
	what := "delete namespace"
	if in.DestroySecrets {
		what += " and destroy its secrets"
	}
	if err := c.record(c.r, ns, c.actor, what); err != nil {
		return nil, err
	}
	return nil, c.cfg.Registry.Delete(c.ctx(), ns, release.Held, in.Confirm, in.DestroySecrets, c.actor)
}

func (c *call) addOwner() (any, error) {
	k, err := decode[trusteeapi.OwnerKey](c)
	if err != nil {
		return nil, err
	}
	return c.cfg.Registry.AddOwner(c.ctx(), c.ns(), k.Name, k.PublicKey)
}

func (c *call) registerSeal() (any, error) {
	s, err := decode[trusteeapi.SealInfo](c)
	if err != nil {
		return nil, err
	}
	return c.cfg.Registry.RegisterSeal(c.ctx(), c.ns(), s.JWS)
}

func (c *call) deleteResource() (any, error) {
	name, err := c.resource()
	if err != nil {
		return nil, err
	}
	if err := c.mayChange(name, trusteeapi.MethodDelete); err != nil {
		return nil, err
	}
	return nil, c.cfg.Gate.Delete(c.ctx(), c.ns(), name)
}

func (c *call) binding() (any, error) {
	name, err := c.resource()
	if err != nil {
		return nil, err
	}
	return c.cfg.Registry.Binding(c.ctx(), c.ns(), name)
}

func (c *call) bind() (any, error) {
	name, err := c.resource()
	if err != nil {
		return nil, err
	}
	b, err := decode[trusteeapi.Binding](c)
	if err != nil {
		return nil, err
	}
	if len(b.Initdata) > 0 && !c.may(WriteDigests, c.ns()) {
		return nil, forbidden(c.caller, WriteDigests, c.ns())
	}
	return c.cfg.Registry.Bind(c.ctx(), c.ns(), name, *b)
}

func (c *call) unbind() (any, error) {
	name, err := c.resource()
	if err != nil {
		return nil, err
	}
	return nil, c.cfg.Registry.Unbind(c.ctx(), c.ns(), name)
}

func (c *call) addEKRoot() (any, error) {
	e, err := decode[trusteeapi.EKRoot](c)
	if err != nil {
		return nil, err
	}
	return c.cfg.Registry.AddRoot(c.ctx(), c.ns(), e.TEE, e.Certificate, e.Intermediate)
}

func (c *call) allowUnproven() (any, error) {
	a, err := decode[trusteeapi.AllowUnproven](c)
	if err != nil {
		return nil, err
	}
	return c.cfg.Registry.SetAllowUnproven(c.ctx(), c.ns(), a.AllowUnproven)
}

func (c *call) importCollateral() (any, error) {
	out, err := c.cfg.Shelf.Import(c.ctx(), c.body)
	if errors.Is(err, shelf.ErrMalformed) {
		return nil, httpio.BadRequest(httpio.TypeSerde, err.Error())
	}
	return out, err
}

func (c *call) wantCollateral() (any, error) {
	w, err := decode[trusteeapi.CollateralWanted](c)
	if err != nil {
		return nil, err
	}
	for _, o := range w.Origins {
		err := c.cfg.Fetcher.Want(c.ctx(), o)
		if errors.Is(err, fetch.ErrNotWanted) {
			return nil, httpio.BadRequest(httpio.TypeSerde, err.Error())
		}
		if err != nil {
			return nil, err
		}
	}
	return c.cfg.Fetcher.Status(c.ctx())
}

func (c *call) exportCollateral() (any, error) {
	b, err := c.cfg.Shelf.Bundle(c.r.URL.Query().Get("prefix"))
	if errors.Is(err, shelf.ErrTooLarge) {
		return nil, httpio.BadRequest(httpio.TypeSerde, err.Error())
	}
	if err != nil {
		return nil, err
	}
	return json.RawMessage(b), nil
}

func (c *call) enrollAK() (any, error) {
	k, err := decode[trusteeapi.EnrolledAK](c)
	if err != nil {
		return nil, err
	}
	return c.cfg.Registry.EnrollAK(c.ctx(), c.ns(), k.Name, k.Note)
}

func (c *call) attestations() (any, error) {
	q := c.r.URL.Query()
	f := record.Filter{Initdata: q.Get("initdata"), Outcome: q.Get("outcome"), Kind: q.Get("kind")}
	if l := q.Get("limit"); l != "" {
		n, err := strconv.Atoi(l)
		if err != nil || n < 1 {
			return nil, httpio.BadRequest(httpio.TypeSerde, "limit is not a positive number")
		}
		f.Limit = n
	}
	return c.cfg.Book.List(c.ctx(), c.ns(), f)
}

// lines is an answer of JSON lines.
type lines [][]byte

func (l lines) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	for _, b := range l {
		w.Write(append(b, '\n'))
	}
}

func resourceURI(repository, kind, tag string) *resource.URI {
	return &resource.URI{Plugin: resource.PluginResource, Path: []string{repository, kind, tag}}
}

// PublishedResource is POST and DELETE /kbs/v0/resource/... as published: raw
// bytes in, an empty body out.
func (h *Handler) PublishedResource(w http.ResponseWriter, r *http.Request, ns, name string) {
	actor, still, err := h.authenticatePublished(r, WriteSecrets, ns)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if r.Method == http.MethodDelete {
		if err = h.record(r, ns, actor, "DELETE /kbs/v0/resource"); err == nil {
			err = h.cfg.Gate.MayChange(r.Context(), ns, name, trusteeapi.MethodDelete, actor, r.RemoteAddr)
		}
		if err == nil {
			err = h.cfg.Gate.Delete(r.Context(), ns, name)
		}
	} else {
		body, done, e := h.cfg.Bodies.Read(w, r, kbs.MaxResource)
		if e != nil {
			httpio.WriteBodyError(w, e)
			return
		}
		defer done()
		defer clear(body)
		if err = still(); err == nil {
			err = h.record(r, ns, actor, "POST /kbs/v0/resource")
		}
		if err == nil {
			err = h.cfg.Gate.MayChange(r.Context(), ns, name, trusteeapi.MethodPut, actor, r.RemoteAddr)
		}
		if err == nil {
			_, err = h.cfg.Gate.Put(r.Context(), ns, name, body, release.PutOptions{Actor: actor})
		}
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/xml")
}
