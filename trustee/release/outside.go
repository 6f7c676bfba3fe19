package release

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/secretstore"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Why a store outside gave nothing. docs/denials.md explains each.
const (
	ReasonStoreAway      denial.Reason = "secret-store-unavailable"
	ReasonStoreRefused   denial.Reason = "secret-store-refused"
	ReasonStoreMalformed denial.Reason = "secret-store-malformed"
	ReasonStoreUnknown   denial.Reason = "secret-store-unknown"
	ReasonUnversioned    denial.Reason = "secret-unversioned"
)

// lookOutside is look for a secret that lives outside: each look is a request to its
// store, which may have a quota.
const lookOutside = 30 * time.Second

// errNotNewerOutside is ErrNotNewer of such a secret.
var errNotNewerOutside = fmt.Errorf("%w in its store", ErrNotNewer)

// Map says in which store a secret lives. Without a binding nobody gets it.
func (g *Gate) Map(ctx context.Context, ns string, m trusteeapi.OutsideSecret) (*trusteeapi.OutsideSecret, error) {
	if m.Encoding != "" && m.Encoding != trusteeapi.EncodingBase64 {
		return nil, fmt.Errorf("%w: encoding %.40q is not %s", tenant.ErrInvalid, m.Encoding, trusteeapi.EncodingBase64)
	}
	if err := g.cfg.Stores.Check(ns, m.Store, want(&m)); err != nil {
		return nil, fmt.Errorf("%w: secret store: %w", tenant.ErrInvalid, err)
	}
	return g.vault.Map(ctx, ns, m)
}

// Unmap forgets where a secret lives, together with its binding.
func (g *Gate) Unmap(ctx context.Context, ns, name string) error { return g.vault.Unmap(ctx, ns, name) }

// Mapped lists the secrets of a namespace that live outside.
func (g *Gate) Mapped(ctx context.Context, ns string) ([]trusteeapi.OutsideSecret, error) {
	return g.vault.Mapped(ctx, ns)
}

// SecretStores lists the stores that a namespace may map secrets to.
func (g *Gate) SecretStores(ns string) []trusteeapi.SecretStore {
	out := []trusteeapi.SecretStore{}
	for _, i := range g.cfg.Stores.In(ns) {
		out = append(out, trusteeapi.SecretStore{Name: i.Name, Kind: i.Kind, Numbered: i.Numbered})
	}
	return out
}

func want(m *trusteeapi.OutsideSecret) secretstore.Want {
	return secretstore.Want{Name: m.Source, Field: m.Field, Version: m.Version}
}

// fetch asks the store in which a secret lives. It is called outside of every
// transaction, after all is decided; what it took counts by again. source says for the audit log what it gave.
func (g *Gate) fetch(ctx context.Context, req *Request, m *trusteeapi.OutsideSecret) (secret []byte, version uint64, source string, err error) {
	w := want(m)
	if req.Version != 0 || req.After != 0 {
		switch numbered, err := g.cfg.Stores.Numbered(req.Namespace, m.Store); {
		case err != nil:
			return nil, 0, "", req.outside(m, err)
		case !numbered:
			return nil, 0, "", req.refuse(m, ReasonUnversioned, "a store that numbers no versions")
		}
	}
	if req.Version != 0 {
		number := strconv.FormatUint(req.Version, 10)
		if cmp.Or(m.Version, number) != number {
			return nil, 0, "", req.refuse(m, ReasonAbsent, "mapped to version "+m.Version+" alone")
		}
		w.Version = number
	}
	s, err := g.cfg.Stores.Fetch(ctx, req.Namespace, m.Store, w)
	if err != nil {
		return nil, 0, "", req.outside(m, err)
	}
	if req.After != 0 && s.Number <= req.After {
		clear(s.Value)
		return nil, 0, "", errNotNewerOutside
	}
	source = m.Store + ":" + m.Source
	if s.Version != "" {
		source += "@" + s.Version
	}
	if m.Encoding != trusteeapi.EncodingBase64 {
		return s.Value, s.Number, source, nil
	}
	defer clear(s.Value)
	plain := make([]byte, base64.StdEncoding.DecodedLen(len(s.Value)))
	n, err := base64.StdEncoding.Strict().Decode(plain, s.Value)
	if err != nil || n == 0 {
		clear(plain)
		return nil, 0, "", req.refuse(m, ReasonStoreMalformed, "no base64")
	}
	return plain[:n], s.Number, source, nil
}

// errMoved says that a secret lives elsewhere than it was fetched from.
var errMoved = fmt.Errorf("%w: where the secret lives changes all the time", store.ErrUnavailable)

// again decides once more after a fetch, which takes as long as the store likes: what was
// taken back meanwhile, and confirmed to whoever did it, releases nothing. It gives
// errMoved where the secret was mapped to something else, or is not outside any more.
func (g *Gate) again(ctx context.Context, req *Request, r *trusteeapi.Record, m *trusteeapi.OutsideSecret) (*authorised, error) {
	var now *trusteeapi.OutsideSecret
	a, err := g.authorise(ctx, req, r, func(tx store.Tx) (err error) {
		now, err = g.vault.Outside(tx, req.Namespace, req.Resource)
		return err
	})
	if err != nil {
		return nil, err
	}
	if now == nil || now.Store != m.Store || now.Encoding != m.Encoding || want(now) != want(m) {
		return nil, errMoved
	}
	return a, nil
}

// outside makes denials of what a store says.
func (r *Request) outside(m *trusteeapi.OutsideSecret, err error) error {
	for _, c := range []struct {
		is     error
		reason denial.Reason
	}{
		{secretstore.ErrAbsent, ReasonAbsent}, {secretstore.ErrDeleted, ReasonDeleted}, {secretstore.ErrAway, ReasonStoreAway}, {secretstore.ErrBusy, ReasonStoreAway},
		{secretstore.ErrRefused, ReasonStoreRefused}, {secretstore.ErrMalformed, ReasonStoreMalformed}, {secretstore.ErrUnknown, ReasonStoreUnknown},
	} {
		if errors.Is(err, c.is) {
			return r.refuse(m, c.reason, err.Error())
		}
	}
	return err
}

func (r *Request) refuse(m *trusteeapi.OutsideSecret, reason denial.Reason, measured string) error {
	return &denial.Denial{
		Reason: reason, Component: Component, Claim: r.Resource, Measured: measured, Expected: "the secret",
		Source: fmt.Sprintf("secret store %s, %s, to which %s is mapped in namespace %s", m.Store, m.Source, r.Resource, r.Namespace),
	}
}
