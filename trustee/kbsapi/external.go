package kbsapi

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/resource"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/plugin"
	"github.com/cofferproject/coffer/trustee/release"
)

// external is the published name of plugins over gRPC; the next part of the path names
// one of them.
const external = "external"

const (
	maxPath  = 16
	maxQuery = 64
)

// PKCS11 names the published plugin of that name: the external one called so, which is
// served below its own name as well.
const PKCS11 = "pkcs11"

// PluginResource gives the name under which a plugin is bound to pods.
func PluginResource(name string) string { return external + "/" + name + "/plugin" }

// boundAs gives the name under which what a request asks for is bound: a secret that is
// an object of a security module is bound by itself, else whoever may have one could
// have all.
func boundAs(name string, path []string) string {
	if name == PKCS11 && len(path) == 4 && path[0] == resource.PluginResource {
		if u, err := resource.New(PKCS11+"."+path[1], path[2], path[3]); err == nil {
			return u.Name()
		}
	}
	return PluginResource(name)
}

// asked is a plugin, by one of its paths.
type asked struct {
	name   string
	prefix []string // the path before what the plugin sees
}

// policy is how resource policies see it.
func (a *asked) policy(path []string) (plugin string, whole []string) {
	return a.prefix[0], append(slices.Clone(a.prefix[1:]), path...)
}

// ask passes a request on to a plugin.
func (c *call) ask(to asked, path []string) {
	req := &plugin.Request{Method: c.r.Method, Path: path, Query: parameters(c.r)}
	if len(path) > maxPath || len(req.Query) > maxQuery || len(c.r.URL.Path) > httpio.MaxName {
		httpio.WriteError(c.w, http.StatusBadRequest, httpio.TypePath, "the path or the query is too long")
		return
	}
	token, err := c.token(c.r.Context())
	if err != nil {
		c.fail(err)
		return
	}
	if token == "" { // an administrator's is there too
		httpio.WriteError(c.w, http.StatusUnauthorized, httpio.TypeToken, "Attestation Token not found")
		return
	}
	body, done, ok := c.body(plugin.MaxBody)
	if !ok {
		return
	}
	defer done()
	req.Body = body
	if err := c.plugin(to, token, req); err != nil {
		c.fail(err)
	}
}

func (c *call) plugin(to asked, token string, req *plugin.Request) error {
	ctx, name := c.r.Context(), to.name
	admin, encrypted, err := c.h.cfg.Plugins.Needs(ctx, name, req)
	if err != nil {
		return c.failed(name, err)
	}
	handle := func(ctx context.Context) ([]byte, error) { return c.h.cfg.Plugins.Handle(ctx, name, req) }
	if admin {
		c.h.cfg.Admin.PublishedPlugin(c.w, c.r, c.ns, strings.Join(append(slices.Clone(to.prefix), req.Path...), "/"), func(ctx context.Context, _ string) ([]byte, error) {
			b, err := handle(ctx)
			if err != nil {
				return nil, c.failed(name, err)
			}
			return b, nil
		})
		return nil
	}
	as, path := to.policy(req.Path)
	return c.use(release.Request{Resource: boundAs(name, req.Path), Token: token, Query: req.Query, Plugin: as, Path: path, Method: req.Method}, encrypted, handle)
}

// use gives an attested guest what a plugin answers, by the rules of a stored secret.
func (c *call) use(req release.Request, encrypted bool, handle func(context.Context) ([]byte, error)) error {
	req.Namespace, req.Peer = c.ns, c.r.RemoteAddr
	out, plain, err := c.h.cfg.Gate.Use(c.r.Context(), req, func(ctx context.Context) ([]byte, bool, error) {
		b, err := handle(ctx)
		return b, encrypted, err
	})
	if err != nil {
		return err
	}
	c.w.Header().Set("Cache-Control", "no-store")
	if encrypted {
		c.w.Header().Set("Content-Type", "application/json")
		plain = out.JWE
	} else {
		c.w.Header().Set("Content-Type", "application/octet-stream")
	}
	c.h.cfg.Gate.Delivered(out, c.deliver(plain))
	return nil
}

// failed gives the refusal for a plugin that did not answer, with its record.
func (c *call) failed(name string, err error) error {
	if errors.Is(err, plugin.ErrBusy) {
		c.w.Header().Set("Retry-After", "1")
	}
	c.rec.Kind, c.rec.Resource = "release", PluginResource(name)
	return c.h.cfg.Book.Deny(c.r.Context(), c.rec, &denial.Denial{
		Reason: release.ReasonPlugin, Component: release.Component, Claim: "plugin", Measured: err.Error(), Expected: "an answer", Source: PluginResource(name),
	})
}
