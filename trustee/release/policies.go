package release

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/resource"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/respolicy"
	"github.com/cofferproject/coffer/trustee/store"
)

// ask gives a read to the resource policies that select it, as published: the
// claims of the token are the input, the request is data.
func (g *Gate) ask(ctx context.Context, s *respolicy.Set, req *Request, c *ear.Claims) (string, error) {
	// Whatever a guest asks for is a GET to the selection: it is not the guest's choice
	// which policies are asked.
	if !s.Asks(req.Resource, trusteeapi.MethodGet) {
		return "", nil
	}
	plugin, path := req.Plugin, req.Path
	if plugin == "" {
		plugin, path = resource.PluginResource, strings.Split(req.Resource, "/")
	}
	b, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("claims for resource policies: %w", err)
	}
	var claims map[string]any
	if err := json.Unmarshal(b, &claims); err != nil {
		return "", fmt.Errorf("claims for resource policies: %w", err)
	}
	return s.Decide(ctx, req.Resource, trusteeapi.MethodGet, &policy.ResourceInput{
		Claims: claims, Plugin: plugin, Path: path, Query: req.Query, Method: cmp.Or(req.Method, trusteeapi.MethodGet), Now: g.cfg.Now(),
	})
}

// MayChange asks the resource policies whether an administrator, whose role allows
// it, may change a secret. The input is {"admin": {"key_id": actor}}.
func (g *Gate) MayChange(ctx context.Context, ns, name, method, actor, peer string) error {
	var inForce *respolicy.InForce
	err := g.cfg.Store.View(ctx, func(tx store.Tx) (err error) {
		inForce, err = g.cfg.Policies.In(tx, ns)
		return err
	})
	if err != nil {
		return err
	}
	s, err := inForce.Set()
	if err != nil || !s.Asks(name, method) {
		return err
	}
	_, err = s.Decide(ctx, name, method, &policy.ResourceInput{
		Claims: map[string]any{"admin": map[string]any{"key_id": actor}}, Plugin: resource.PluginResource, Path: strings.Split(name, "/"), Method: method, Now: g.cfg.Now(),
	})
	if d, ok := denial.As(err); ok {
		return g.cfg.Book.Deny(ctx, trusteeapi.Record{ID: record.NewID(), Kind: "admin", Namespace: ns, Peer: peer, Resource: name}, d)
	}
	return err
}
