package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/migrate"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/respolicy"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// importActor is who the audit log names: whoever can write to the state.
const importActor = "coffer-trustee import"

// Import brings over a store of the existing services into a namespace of the
// state, which no server may have open. A dry run of a state that is not there yet
// makes none.
func Import(ctx context.Context, c Config, from migrate.Source, ns string, o migrate.Options) (*migrate.Report, error) {
	if c.State == "" || c.Log == nil || c.Now == nil {
		return nil, errors.New("import: a part of the configuration is missing")
	}
	if c.LockWait == 0 {
		c.LockWait = 2 * time.Second // somebody waits for the answer
	}
	if c.Limits == nil {
		c.Limits = limits.Defaults()
	}
	o.Now = c.Now()
	if _, err := os.Stat(filepath.Join(c.State, "trustee.db")); c.Database == "" && o.DryRun && errors.Is(err, os.ErrNotExist) {
		if ns != trusteeapi.DefaultNamespace {
			return nil, fmt.Errorf("namespace %s: %w", ns, tenant.ErrNotFound)
		}
		return migrate.Run(ctx, from, nothing{}, o)
	}
	s := &Server{cfg: c}
	r, err := s.importInto(ctx, from, ns, o)
	return r, errors.Join(err, s.closeState())
}

func (s *Server) importInto(ctx context.Context, from migrate.Source, ns string, o migrate.Options) (*migrate.Report, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	registry, err := tenant.New(ctx, s.store, s.cfg.Limits, s.cfg.Now)
	if err != nil {
		return nil, err
	}
	if _, err := registry.Namespace(ctx, ns); err != nil {
		return nil, err
	}
	gate, err := release.New(release.Config{
		Store: s.store, KEK: s.kek, Audit: s.audit, Book: record.New(s.store, s.audit, s.cfg.Log, s.cfg.Now),
		Tokens: s.tokens, Limits: s.cfg.Limits, Now: s.cfg.Now,
		Policies: respolicy.New(s.store, s.cfg.Now),
	})
	if err != nil {
		return nil, err
	}
	return migrate.Run(ctx, from, &target{s, registry, gate, ns}, o)
}

// target is one namespace of the state.
type target struct {
	s        *Server
	registry *tenant.Registry
	gate     *release.Gate
	ns       string
}

// record puts a change into the audit log before it happens.
func (t *target) record(ctx context.Context, action, what string) error {
	return t.s.audit.Append(ctx, &audit.Entry{
		Kind: audit.KindAdmin, Record: record.NewID(), Actor: importActor, Action: action, Namespace: t.ns, Resource: what,
	})
}

// Secrets implements migrate.Target.
func (t *target) Secrets(ctx context.Context) ([]string, error) {
	l, err := t.gate.List(ctx, t.ns)
	var out []string
	for _, r := range l {
		out = append(out, r.Name)
	}
	return out, err
}

// IsSecret implements migrate.Target.
func (t *target) IsSecret(ctx context.Context, name string, secret []byte) (bool, error) {
	return t.gate.Same(ctx, t.ns, name, secret)
}

// PutSecret implements migrate.Target.
func (t *target) PutSecret(ctx context.Context, name string, secret []byte) error {
	if err := t.record(ctx, "import secret", name); err != nil {
		return err
	}
	_, err := t.gate.Put(ctx, t.ns, name, secret, release.PutOptions{Actor: importActor})
	return err
}

// Policy implements migrate.Target.
func (t *target) Policy(ctx context.Context, name string) (string, error) {
	p, err := t.registry.Policy(ctx, t.ns, name)
	switch {
	case errors.Is(err, tenant.ErrNotFound):
		return "", nil
	case err != nil || p.Embedded:
		return "", err
	}
	return p.Text, nil
}

// PutPolicy implements migrate.Target.
func (t *target) PutPolicy(ctx context.Context, name, text string) error {
	if err := t.record(ctx, "import policy", name); err != nil {
		return err
	}
	_, err := t.registry.SetPolicy(ctx, t.ns, name, importActor, text)
	return err
}

// Bundles implements migrate.Target.
func (t *target) Bundles(ctx context.Context) (map[string]string, error) {
	l, err := t.registry.ReferenceValues(ctx, t.ns)
	out := map[string]string{}
	for _, b := range l {
		out[b.Name] = b.ID
	}
	return out, err
}

// PutBundle implements migrate.Target.
func (t *target) PutBundle(ctx context.Context, name string, doc []byte) error {
	if err := t.record(ctx, "import reference values", name); err != nil {
		return err
	}
	_, err := t.registry.RegisterReferenceValues(ctx, t.ns, name, importActor, doc)
	return err
}

// nothing is a state that is not there yet, for a dry run.
type nothing struct{}

func (nothing) Secrets(context.Context) ([]string, error)              { return nil, nil }
func (nothing) Policy(context.Context, string) (string, error)         { return "", nil }
func (nothing) Bundles(context.Context) (map[string]string, error)     { return nil, nil }
func (nothing) IsSecret(context.Context, string, []byte) (bool, error) { return false, nil }
func (nothing) PutSecret(context.Context, string, []byte) error        { return errDry }
func (nothing) PutPolicy(context.Context, string, string) error        { return errDry }
func (nothing) PutBundle(context.Context, string, []byte) error        { return errDry }

var errDry = errors.New("import: a dry run changes nothing")
