package tenant

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/store"
)

const (
	gone     = "namespaces-gone" // name to grave, for good
	deletion = "deletion"        // in a namespace's meta: what was confirmed last

	// ConfirmFor is how long a namespace may be deleted by what was shown of it.
	ConfirmFor = 10 * time.Minute

	// settle is how long after a deletion requests that were under way may still have
	// written something.
	settle = 2 * time.Minute
)

// grave is what is known of a namespace that was deleted.
type grave struct {
	Deleted time.Time `json:"deleted"`
	By      string    `json:"by"`
	Purged  time.Time `json:"purged,omitzero"` // when nothing of it was left
}

// shown is what somebody was shown before he deletes.
type shown struct {
	Confirm string    `json:"confirm"`
	Secrets int       `json:"secrets"`
	Expires time.Time `json:"expires"`
}

// BucketsOf are the buckets of this package that a namespace has, and its marks.
func BucketsOf() []string {
	return []string{owners, seals, bindings, refvalues, refdocs, ekroots, enrolled, policies, policyVersions, anchors, anchordocs, identities, "meta"}
}

// secrets counts the keys of the bucket that has one for each secret.
func secrets(tx store.Tx, bucket string) (n int, err error) {
	err = tx.Scan(bucket, "", func(string, []byte) (bool, error) { n++; return true, nil })
	return n, err
}

// PrepareDeletion says what a namespace holds, and the word by which it may be deleted
// for a while. held is the bucket with its secrets.
func (r *Registry) PrepareDeletion(ctx context.Context, ns, held string) (out *trusteeapi.NamespaceDeletion, err error) {
	var word [16]byte
	rand.Read(word[:])
	expires := r.now().Add(ConfirmFor).UTC().Truncate(time.Second)
	err = r.update(ctx, ns, func(tx store.Tx, n *trusteeapi.Namespace) error {
		count, err := secrets(tx, Bucket(ns, held))
		if err != nil {
			return err
		}
		s := shown{hex.EncodeToString(word[:]), count, expires}
		out = &trusteeapi.NamespaceDeletion{Namespace: n.Name, Secrets: s.Secrets, Confirm: s.Confirm, Expires: expires}
		return store.PutJSON(tx, Bucket(ns, "meta"), deletion, s)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Delete takes a namespace away: from then on it is nobody's, for every replica, and its
// name is never used again. confirm is what PrepareDeletion gave; with secrets in it
// destroy must be said. What it held is purged afterwards.
func (r *Registry) Delete(ctx context.Context, ns, held, confirm string, destroy bool, by string) error {
	now := r.now().UTC()
	return r.update(ctx, ns, func(tx store.Tx, _ *trusteeapi.Namespace) error {
		s, ok, err := store.GetJSON[shown](tx, Bucket(ns, "meta"), deletion)
		if err != nil {
			return err
		}
		if !ok || !now.Before(s.Expires) || subtle.ConstantTimeCompare([]byte(confirm), []byte(s.Confirm)) != 1 {
			return fmt.Errorf("namespace %s: the word that confirms its deletion is another one, or too old: %w", ns, ErrConflict)
		}
		count, err := secrets(tx, Bucket(ns, held))
		switch {
		case err != nil:
			return err
		case count != s.Secrets:
			return fmt.Errorf("namespace %s holds %d secrets, and held %d when its deletion was asked for: %w", ns, count, s.Secrets, ErrConflict)
		case count > 0 && !destroy:
			return fmt.Errorf("namespace %s holds %d secrets: say destroy_secrets: %w", ns, count, ErrConflict)
		}
		return errors.Join(store.PutJSON(tx, gone, ns, grave{Deleted: now, By: by}), tx.Delete(namespaces, ns))
	})
}

// wasDeleted refuses a name that was used before: what carries it elsewhere (audit
// records, ciphertexts in backups, grants) is of another namespace.
func wasDeleted(tx store.Tx, ns string) error {
	b, err := tx.Get(gone, ns)
	if err != nil || b == nil {
		return err
	}
	return fmt.Errorf("a namespace %s was deleted, and no name is used again: %w", ns, ErrConflict)
}

// Unpurged lists the deleted namespaces of which something may be left.
func (r *Registry) Unpurged(ctx context.Context) (out []string, err error) {
	err = r.store.View(ctx, func(tx store.Tx) error {
		out = nil
		var names []string
		if err := tx.Scan(gone, "", func(k string, _ []byte) (bool, error) { names = append(names, k); return true, nil }); err != nil {
			return err
		}
		for _, n := range names {
			g, _, err := store.GetJSON[grave](tx, gone, n)
			if err != nil {
				return err
			}
			if g.Purged.IsZero() {
				out = append(out, n)
			}
		}
		return nil
	})
	return out, err
}

// purgeBatch is how many keys one transaction deletes.
const purgeBatch = 500

// Purge deletes what is left of a deleted namespace in some buckets, and in others by
// its own means. more says that it must be called again. drop, if not nil, is asked for
// each value before it goes.
func (r *Registry) Purge(ctx context.Context, ns string, buckets []string, drop func(tx store.Tx, what, key string, value []byte) error) (more bool, err error) {
	err = r.store.Update(ctx, func(tx store.Tx) error {
		more = false
		g, ok, err := store.GetJSON[grave](tx, gone, ns)
		if err != nil || !ok {
			return err // never of one that lives
		}
		left := purgeBatch
		for _, what := range buckets {
			n, err := empty(tx, Bucket(ns, what), left, func(key string, value []byte) error {
				if drop == nil {
					return nil
				}
				return drop(tx, what, key, value)
			})
			if err != nil {
				return err
			}
			if left -= n; left <= 0 {
				more = true
				return nil
			}
			if err := errors.Join(tx.Delete(counts, Bucket(ns, what)), tx.Delete(counts, Bucket(ns, what)+lengths)); err != nil {
				return err
			}
		}
		if now := r.now().UTC(); left == purgeBatch && now.Sub(g.Deleted) > settle {
			g.Purged = now
			return store.PutJSON(tx, gone, ns, g)
		}
		return nil
	})
	return more, err
}

// empty deletes at most so many keys of a bucket and gives their number.
func empty(tx store.Tx, bucket string, most int, before func(key string, value []byte) error) (int, error) {
	var keys []string
	if err := tx.Scan(bucket, "", func(k string, v []byte) (bool, error) {
		if len(keys) >= most {
			return false, nil
		}
		keys = append(keys, k)
		return true, nil
	}); err != nil {
		return 0, err
	}
	for _, k := range keys {
		v, err := tx.Get(bucket, k)
		if err != nil {
			return 0, err
		}
		if err := errors.Join(before(k, v), tx.Delete(bucket, k)); err != nil {
			return 0, err
		}
	}
	return len(keys), nil
}
