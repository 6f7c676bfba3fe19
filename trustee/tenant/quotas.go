package tenant

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
)

// SetQuotas replaces a namespace's quotas. What is there already is never refused or
// dropped when one is lowered.
func (r *Registry) SetQuotas(ctx context.Context, ns string, quotas map[string]int) (out *trusteeapi.Namespace, err error) {
	if err := limits.CheckQuotas(names(quotas)); err != nil {
		return nil, invalid(err)
	}
	err = r.update(ctx, ns, func(tx store.Tx, n *trusteeapi.Namespace) error {
		n.Quotas, out = quotas, n
		return store.PutJSON(tx, namespaces, ns, n)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func names(quotas map[string]int) map[limits.Name]int {
	out := make(map[limits.Name]int, len(quotas))
	for n, most := range quotas {
		out[limits.Name(n)] = most
	}
	return out
}

// Limits gives what counts for a namespace: the trustee's limits, or its quotas in their
// place. where "" is the trustee. It is asked at each handshake, and few namespaces have
// quotas, so that the others' records are not decoded.
func Limits(tx store.Tx, most limits.Set, where string) (limits.Set, error) {
	if where == "" {
		return most, nil
	}
	raw, err := tx.Get(namespaces, where)
	if err != nil || !bytes.Contains(raw, []byte(`"quotas"`)) {
		return most, err
	}
	var n struct {
		Quotas map[string]int `json:"quotas"`
	}
	if err := json.Unmarshal(raw, &n); err != nil {
		return nil, err
	}
	return most.Of(names(n.Quotas)), nil
}
