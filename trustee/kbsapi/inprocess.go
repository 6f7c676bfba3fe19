package kbsapi

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/nebulaca"
	"github.com/cofferproject/coffer/trustee/provisioner"
	"github.com/cofferproject/coffer/trustee/release"
)

// Plugins of this process: whose paths are served here, and what they do in packages of
// their own.

// provision serves the provisioner plugin: an administrator makes and deletes keys,
// the guest whose initdata names one reads it.
func (c *call) provision(path []string) {
	create := c.r.Method == http.MethodPost && len(path) == 1 && path[0] == "provision"
	remove := c.r.Method == http.MethodDelete && len(path) == 2 && path[0] == "provision"
	if !create && !remove {
		c.provisioned(path)
		return
	}
	var body []byte
	if create {
		b, done, ok := c.body(provisioner.MaxBody)
		if !ok {
			return
		}
		defer done()
		body = b
	}
	c.h.cfg.Admin.PublishedPlugin(c.w, c.r, c.ns, strings.Join(append([]string{provisioner.Name}, path...), "/"), func(ctx context.Context, actor string) ([]byte, error) {
		by := provisioner.Caller{Namespace: c.ns, Actor: actor, Peer: c.r.RemoteAddr}
		if create {
			return c.h.cfg.Provisioner.Provision(ctx, by, body)
		}
		return c.h.cfg.Provisioner.Deprovision(ctx, by, path[1])
	})
}

func (c *call) provisioned(path []string) {
	name, err := provisioner.Resource(path)
	if err != nil {
		httpio.WriteError(c.w, http.StatusNotFound, httpio.TypePath, err.Error())
		return
	}
	if c.r.Method != http.MethodGet {
		httpio.WriteError(c.w, http.StatusMethodNotAllowed, httpio.TypePath, "method not allowed")
		return
	}
	if err := c.read(release.Request{
		Resource: name, Plugin: provisioner.Name, Path: path,
		Named: &release.Named{Key: provisioner.InitdataKey, Value: "kbs+" + provisioner.Name + ":///" + strings.Join(path, "/")},
	}); err != nil {
		c.fail(err)
	}
}

// nebula serves the nebula-ca plugin.
func (c *call) nebula(path []string) {
	switch {
	case len(path) != 1 || path[0] != nebulaca.PathCredential:
		httpio.WriteError(c.w, http.StatusNotFound, httpio.TypePath, fmt.Sprintf("%.60q not supported", strings.Join(path, "/")))
		return
	case c.r.Method != http.MethodGet:
		httpio.WriteError(c.w, http.StatusMethodNotAllowed, httpio.TypePath, "method not allowed")
		return
	}
	if err := c.credential(path); err != nil {
		c.fail(err)
	}
}

func (c *call) credential(path []string) error {
	token, err := c.token(c.r.Context())
	if err != nil {
		return err
	}
	if token == "" {
		httpio.WriteError(c.w, http.StatusUnauthorized, httpio.TypeToken, "Attestation Token not found")
		return nil
	}
	query := c.r.URL.Query()
	for k, v := range query {
		if len(v) > 1 { // which of them a policy judges must be the one that counts
			return httpio.BadRequest(httpio.TypePath, fmt.Sprintf("query: %.40q is given twice", k))
		}
	}
	p, err := nebulaca.ParseParams(parameters(c.r))
	if err != nil {
		return httpio.BadRequest(httpio.TypePath, "query: "+err.Error())
	}
	req := release.Request{Resource: p.Resource(), Token: token, Query: parameters(c.r), Plugin: nebulaca.Name, Path: path}
	if p.Privileged() {
		req.NeedPolicy = "its groups and subnets"
	}
	return c.use(req, true, func(ctx context.Context) ([]byte, error) { return c.h.cfg.Nebula.Issue(ctx, c.ns, p) })
}
