package tenant

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/seal"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
)

const bindings = "bindings"

// Bind adds to a secret's binding.
func (r *Registry) Bind(ctx context.Context, ns, resource string, add trusteeapi.Binding) (*trusteeapi.Binding, error) {
	for _, d := range add.Initdata {
		if err := checkInitdata(d); err != nil {
			return nil, invalid(err)
		}
	}
	if len(add.Seals)+len(add.Initdata) == 0 {
		return nil, invalid(errors.New("binding names neither a seal nor an initdata digest"))
	}
	var out *trusteeapi.Binding
	err := r.update(ctx, ns, func(tx store.Tx, _ *trusteeapi.Namespace) error {
		for _, id := range add.Seals {
			v, err := tx.Get(Bucket(ns, seals), id)
			if err != nil {
				return err
			}
			if v == nil {
				return fmt.Errorf("%w: seal %.80q is not registered in namespace %s", ErrInvalid, id, ns)
			}
		}
		b, ok, err := store.GetJSON[trusteeapi.Binding](tx, Bucket(ns, bindings), resource)
		if err != nil {
			return err
		}
		if !ok {
			if err := Grow(tx, r.limits, limits.Bindings, ns, Bucket(ns, bindings)); err != nil {
				return err
			}
			b = &trusteeapi.Binding{}
		}
		b.Seals = union(b.Seals, add.Seals)
		b.Initdata = union(b.Initdata, add.Initdata)
		most, err := Limits(tx, r.limits, ns)
		if err != nil {
			return err
		}
		if err := most.Check(limits.BindingEntries, ns, len(b.Seals)+len(b.Initdata)); err != nil {
			return fmt.Errorf("binding of %s: %w", resource, err)
		}
		out = b
		return store.PutJSON(tx, Bucket(ns, bindings), resource, b)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func union(a, b []string) []string {
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}

func checkInitdata(d string) error {
	alg, h, ok := strings.Cut(d, ":")
	size := map[string]int{"sha256": 32, "sha384": 48, "sha512": 64}[alg]
	b, err := hex.DecodeString(h)
	if !ok || size == 0 || err != nil || len(b) != size || strings.ToLower(h) != h {
		return fmt.Errorf("%.80q is not an initdata digest, such as sha256:<64 hex digits>", d)
	}
	return nil
}

// Binding gives a secret's binding.
func (r *Registry) Binding(ctx context.Context, ns, resource string) (out *trusteeapi.Binding, err error) {
	err = r.store.View(ctx, func(tx store.Tx) error {
		if _, err := GetNamespace(tx, ns); err != nil {
			return err
		}
		b, ok, err := store.GetJSON[trusteeapi.Binding](tx, Bucket(ns, bindings), resource)
		if err == nil && !ok {
			err = fmt.Errorf("binding of %s: %w", resource, ErrNotFound)
		}
		out = b
		return err
	})
	return out, err
}

// Unbind removes a secret's binding.
func (r *Registry) Unbind(ctx context.Context, ns, resource string) error {
	return r.update(ctx, ns, func(tx store.Tx, _ *trusteeapi.Namespace) error {
		have, err := tx.Get(Bucket(ns, bindings), resource)
		if err == nil && have == nil {
			err = fmt.Errorf("binding of %.300q: %w", resource, ErrNotFound)
		}
		if err != nil {
			return err
		}
		return DropBinding(tx, ns, resource)
	})
}

// DropBinding removes a binding, if there is one, together with its secret.
func DropBinding(tx store.Tx, ns, resource string) error {
	switch have, err := tx.Get(Bucket(ns, bindings), resource); {
	case err != nil:
		return err
	case have == nil:
		return nil
	}
	return errors.Join(Shrink(tx, Bucket(ns, bindings)), tx.Delete(Bucket(ns, bindings), resource))
}

// BindingOf gives a secret's binding inside of a transaction, or nil.
func BindingOf(tx store.Tx, ns, resource string) (*trusteeapi.Binding, error) {
	b, ok, err := store.GetJSON[trusteeapi.Binding](tx, Bucket(ns, bindings), resource)
	if !ok {
		return nil, err
	}
	return b, err
}

// Holds reports whether a binding admits a TEE with this verified initdata
// digest, and by which seal ("" if the binding names the digest itself). Why it
// does not, is for the owner to read.
func Holds(tx store.Tx, ns string, b *trusteeapi.Binding, d *ear.Digest) (sealID string, ok bool, why string, err error) {
	if b == nil {
		return "", false, "the secret has no binding", nil
	}
	if slices.Contains(b.Initdata, d.String()) {
		return "", true, "", nil
	}
	raw, err := hex.DecodeString(d.Hex)
	if err != nil {
		return "", false, "", fmt.Errorf("initdata digest of a token: %w", err)
	}
	var notes []string
	for _, id := range b.Seals {
		info, found, err := store.GetJSON[trusteeapi.SealInfo](tx, Bucket(ns, seals), id)
		if err != nil {
			return "", false, "", err
		}
		if !found {
			notes = append(notes, "seal "+id+" is not registered any more")
			continue
		}
		// Nothing but the signed text decides; it is checked anew, because an
		// owner's key can be removed.
		s, err := seal.Parse(info.JWS)
		if err != nil {
			return "", false, "", err
		}
		if !s.Statement.Names(d.Algorithm, raw) {
			continue
		}
		if err := verifySeal(tx, ns, s); err != nil {
			notes = append(notes, "seal "+id+": "+err.Error())
			continue
		}
		return id, true, "", nil
	}
	return "", false, strings.Join(notes, "; "), nil
}

// Expected lists, for people, what a binding admits.
func Expected(tx store.Tx, ns string, b *trusteeapi.Binding) string {
	if b == nil {
		return "nobody"
	}
	out := slices.Clone(b.Initdata)
	for _, id := range b.Seals {
		info, ok, err := store.GetJSON[trusteeapi.SealInfo](tx, Bucket(ns, seals), id)
		if err != nil || !ok {
			continue
		}
		for _, alg := range []string{"sha256", "sha384", "sha512"} {
			if h, ok := info.Initdata[alg]; ok {
				out = append(out, fmt.Sprintf("%s:%s (seal %.12s of pod %s)", alg, h, id, info.Pod))
			}
		}
	}
	const most = 8
	if len(out) > most {
		out = append(out[:most], fmt.Sprintf("and %d more", len(out)-most))
	}
	return strings.Join(out, " or ")
}
