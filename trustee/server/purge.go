package server

import (
	"context"
	"slices"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/respolicy"
	"github.com/cofferproject/coffer/trustee/session"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// namespaceBuckets are all that a namespace has; a test looks for others in the store.
func namespaceBuckets() []string {
	return slices.Concat(release.Buckets(), tenant.BucketsOf(), respolicy.Buckets(), session.Buckets(), record.Buckets())
}

// purge takes away what deleted namespaces have left. It may be cut off anywhere.
func (s *Server) purge(ctx context.Context) error {
	if s.registry == nil {
		return nil
	}
	names, err := s.registry.Unpurged(ctx)
	if err != nil {
		return err
	}
	for _, ns := range names {
		if err := s.purgeOne(ctx, ns); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return nil
	}
	left, err := s.registry.Unpurged(ctx)
	if err != nil {
		return err
	}
	for _, ns := range names {
		if slices.Contains(left, ns) {
			continue
		}
		if err := s.audit.Append(ctx, &audit.Entry{
			Kind: audit.KindAdmin, Record: record.NewID(), Actor: "coffer-trustee", Action: "purged what the deleted namespace held", Namespace: ns,
		}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) purgeOne(ctx context.Context, ns string) error {
	if err := s.credentials.DropNamespace(ctx, ns); err != nil {
		return err
	}
	if err := s.identities.Forget(ctx, ns); err != nil {
		return err
	}
	if err := s.tokens.Forget(ctx, ns); err != nil {
		return err
	}
	for more := true; more; {
		var err error
		if more, err = s.registry.Purge(ctx, ns, namespaceBuckets(), func(tx store.Tx, what, _ string, value []byte) error {
			return record.Dropped(tx, what, value)
		}); err != nil {
			return err
		}
	}
	return nil
}

// keptNamespaces are those that this server makes, serves or is asked for by name.
func (c *Config) keptNamespaces() []string {
	out := []string{trusteeapi.DefaultNamespace}
	for _, ns := range []string{c.SimulatedNamespace, c.Services.Namespace, c.Remote.Namespace} {
		if ns != "" {
			out = append(out, ns)
		}
	}
	return out
}
