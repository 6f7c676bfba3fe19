package release

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/release/internal/vault"
)

// What Release and Await say beside denials.
var (
	ErrNotNewer = vault.ErrNotNewer
	ErrBusy     = vault.ErrBusy
)

// PutOptions say more about a new version of a secret.
type PutOptions = vault.PutOptions

// Put stores a new version of a secret. Without a binding nobody gets it.
func (g *Gate) Put(ctx context.Context, ns, name string, secret []byte, o PutOptions) (*trusteeapi.Resource, error) {
	return g.vault.Put(ctx, ns, name, secret, o)
}

// Same reports whether the newest version of a secret is this one. Nothing of it leaves;
// whoever may ask could still guess: only an import, which owns store and key, does.
func (g *Gate) Same(ctx context.Context, ns, name string, secret []byte) (bool, error) {
	return g.vault.Same(ctx, ns, name, secret)
}

// Delete removes a secret with all its versions and its binding.
func (g *Gate) Delete(ctx context.Context, ns, name string) error {
	return g.vault.Delete(ctx, ns, name)
}

// History gives the metadata of a secret and of its versions.
func (g *Gate) History(ctx context.Context, ns, name string) (*trusteeapi.History, error) {
	return g.vault.History(ctx, ns, name)
}

// Change deletes, undeletes, destroys one version, or sets its expiry.
func (g *Gate) Change(ctx context.Context, ns, name string, version uint64, change string, expires time.Time) (*trusteeapi.SecretVersion, error) {
	return g.vault.Change(ctx, ns, name, version, change, expires)
}

// Rollback makes a new version with the content of an older one, which does not
// leave the trustee.
func (g *Gate) Rollback(ctx context.Context, ns, name string, from uint64, actor string) (*trusteeapi.Resource, error) {
	return g.vault.Rollback(ctx, ns, name, from, actor)
}

// Waiting gives how many guests wait for new versions.
func (g *Gate) Waiting() int { return g.vault.Waiting() }

// look is how often a waiting request looks at the store, for changes that another
// replica has made.
const look = 5 * time.Second

// Await is Release that waits for a version newer than req.After, at most so long.
// Every look is a whole decision: a binding, a token or a policy that is gone by
// then refuses.
func (g *Gate) Await(ctx context.Context, req Request, wait time.Duration) (*Released, error) {
	out, err := g.Release(ctx, req)
	if wait <= 0 || !errors.Is(err, ErrNotNewer) {
		return out, err
	}
	until := time.NewTimer(min(wait, kbs.MaxWait))
	defer until.Stop()
	every := look
	if errors.Is(err, errNotNewerOutside) {
		every = lookOutside
	}
	again := time.NewTicker(every)
	defer again.Stop()
	for {
		changed, leave, err := g.vault.Watch(req.Namespace, req.Resource)
		if err != nil {
			return nil, err
		}
		// Once more: it may have changed before this watch began.
		out, err := g.Release(ctx, req)
		if !errors.Is(err, ErrNotNewer) {
			leave()
			return out, err
		}
		select {
		case <-changed:
		case <-again.C:
		case <-until.C:
			leave()
			return nil, ErrNotNewer
		case <-g.closing:
			leave()
			return nil, ErrNotNewer
		case <-ctx.Done():
			leave()
			return nil, ctx.Err()
		}
		leave()
	}
}

// Drain ends all waiting: the server is about to stop.
func (g *Gate) Drain() { g.drain.Do(func() { close(g.closing) }) }

// explain makes denials of what the vault says.
func (r *Request) explain(err error) error {
	d := &denial.Denial{Component: Component, Claim: r.Resource, Expected: "a version that is neither deleted nor expired", Source: "namespace " + r.Namespace}
	which := "the newest version"
	if r.Version != 0 {
		which = fmt.Sprintf("version %d", r.Version)
		d.Claim += "?" + kbs.QueryVersion + "=" + fmt.Sprint(r.Version)
	}
	switch {
	case errors.Is(err, vault.ErrAbsent):
		d.Reason, d.Measured = ReasonAbsent, "no secret of that name, or no such version"
	case errors.Is(err, vault.ErrDeleted):
		d.Reason, d.Measured = ReasonDeleted, which+" is deleted"
	case errors.Is(err, vault.ErrExpired):
		d.Reason, d.Measured = ReasonExpired, which+" has expired"
	default:
		return err
	}
	return d
}
