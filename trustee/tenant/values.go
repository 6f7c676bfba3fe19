package tenant

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
)

// MergeReferenceValues puts named values into an unsigned bundle, which it makes
// where there is none: a value of a name replaces the one that the bundle had, as
// the published Reference Value Provider Service does it. It is one change: of two
// at once neither is lost.
func (r *Registry) MergeReferenceValues(ctx context.Context, ns, bundle, tool, actor string, values map[string]any) (*trusteeapi.ReferenceValues, error) {
	if !bundleRE.MatchString(bundle) || len(values) == 0 {
		return nil, invalid(fmt.Errorf("reference values: name %.80q has characters that no name has, or there are no values", bundle))
	}
	now := r.now()
	var info *trusteeapi.ReferenceValues
	err := r.update(ctx, ns, func(tx store.Tx, _ *trusteeapi.Namespace) error {
		b := &refvalue.Bundle{Version: refvalue.Version, Values: map[string]any{}}
		have, err := tx.Get(Bucket(ns, refdocs), bundle)
		if err != nil {
			return err
		}
		if have == nil {
			if err := r.room(tx, limits.ReferenceValues, ns, refvalues); err != nil {
				return err
			}
		} else {
			d, err := parseDocument(have)
			if err != nil {
				return err
			}
			old := d.bundle
			if d.format != FormatBundle || d.check != nil || old.Debug || len(old.Sets) > 0 || !old.Expires.IsZero() {
				return fmt.Errorf("reference values: bundle %s is signed, of a debug image, expires or has event sets: %w", bundle, ErrConflict)
			}
			b.Values = old.Values
		}
		if b.Values == nil {
			b.Values = map[string]any{}
		}
		b.Provenance = refvalue.Provenance{Tool: tool}
		maps.Copy(b.Values, values)
		doc, err := b.Encode()
		if err == nil {
			_, err = refvalue.Parse(doc)
		}
		if err != nil {
			return invalid(err)
		}
		prov, err := json.Marshal(b.Provenance)
		if err != nil {
			return invalid(err)
		}
		sum := sha256.Sum256(doc)
		info = &trusteeapi.ReferenceValues{
			ID: hex.EncodeToString(sum[:]), Name: bundle, Values: len(b.Values), Provenance: prov, Actor: actor, Registered: now.UTC(),
		}
		if err := store.PutJSON(tx, Bucket(ns, refvalues), bundle, info); err != nil {
			return err
		}
		if err := tx.Put(Bucket(ns, refdocs), bundle, doc); err != nil {
			return err
		}
		t := &Trust{}
		if err := t.loadReferences(tx, ns, now); err != nil {
			return invalid(err)
		}
		return bump(tx, ns)
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// ReferenceValue gives the value of a name as policies see it now: of all bundles
// that count. False: there is none.
func (r *Registry) ReferenceValue(ctx context.Context, ns, name string) (any, bool, error) {
	t, err := r.Trust(ctx, ns, r.now())
	if err != nil {
		return nil, false, err
	}
	all, err := refvalue.Merge(t.References...)
	if err != nil {
		return nil, false, err
	}
	v, ok := all[name]
	return v, ok, nil
}
