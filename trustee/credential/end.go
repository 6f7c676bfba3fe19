package credential

import (
	"context"
	"fmt"
	"slices"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Delete takes a credential back, if may says so of it. What it has given, and what that
// has given in turn, stands and is listed, or with given ends as well: then may must say
// so of each, and all of them end or none. A credential that is gone already may still
// have given some, which end the same way.
func (s *Store) Delete(ctx context.Context, id string, given bool, may func(*trusteeapi.Credential) error) (out *trusteeapi.CredentialEnd, err error) {
	err = s.store.Update(ctx, func(tx store.Tx) error {
		out = &trusteeapi.CredentialEnd{}
		c, err := get(tx, id)
		if err != nil {
			return err
		}
		all, err := givenBy(tx, id)
		if err != nil {
			return err
		}
		if c == nil && (!given || len(all) == 0) {
			return fmt.Errorf("credential %.80q: %w", id, tenant.ErrNotFound)
		}
		var end []*trusteeapi.Credential
		if c != nil {
			end = append(end, c)
		}
		for _, x := range all {
			if given {
				end = append(end, x)
				out.Ended = append(out.Ended, *x)
			} else {
				out.Standing = append(out.Standing, *x)
			}
		}
		for _, x := range end {
			if err := may(x); err != nil {
				return err
			}
		}
		for _, x := range out.Standing {
			if err := inherit(tx, x, c); err != nil {
				return err
			}
		}
		for _, x := range end {
			// One after the other, so that the last of several is seen as the last.
			if err := notLast(tx, x); err != nil {
				return err
			}
			if err := remove(tx, x); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// DropNamespace takes the grants in a deleted namespace away, and with its last grant a
// credential.
func (s *Store) DropNamespace(ctx context.Context, ns string) error {
	return s.store.Update(ctx, func(tx store.Tx) error {
		var hit []*trusteeapi.Credential
		in := func(g trusteeapi.Grant) bool { return g.Namespace == ns }
		if err := each(tx, func(c *trusteeapi.Credential) {
			if slices.ContainsFunc(c.Grants, in) {
				hit = append(hit, c)
			}
		}); err != nil {
			return err
		}
		for _, c := range hit {
			c.Grants = slices.DeleteFunc(c.Grants, in)
			var err error
			if len(c.Grants) == 0 {
				err = remove(tx, c)
			} else {
				err = store.PutJSON(tx, bucket, c.ID, c)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// inherit keeps the way from what stands to who had given to its giver, which goes.
func inherit(tx store.Tx, x trusteeapi.Credential, giver *trusteeapi.Credential) error {
	if !slices.Contains(x.GivenBy, giver.ID) {
		return nil
	}
	for _, g := range giver.GivenBy {
		if !slices.Contains(x.GivenBy, g) && len(x.GivenBy) < trusteeapi.MaxGrants {
			x.GivenBy = append(x.GivenBy, g)
		}
	}
	return store.PutJSON(tx, bucket, x.ID, x)
}

// givenBy gives what a credential has given, and what that has given, and so on.
func givenBy(tx store.Tx, id string) (out []*trusteeapi.Credential, err error) {
	var all []*trusteeapi.Credential
	if err := each(tx, func(c *trusteeapi.Credential) { all = append(all, c) }); err != nil {
		return nil, err
	}
	seen := map[string]bool{id: true}
	for from := []string{id}; len(from) > 0; {
		var next []string
		for _, c := range all {
			if !seen[c.ID] && slices.ContainsFunc(c.GivenBy, func(g string) bool { return slices.Contains(from, g) }) {
				seen[c.ID] = true
				out, next = append(out, c), append(next, c.ID)
			}
		}
		from = next
	}
	return out, nil
}
