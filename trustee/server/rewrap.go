package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/store/authentic"
	"github.com/cofferproject/coffer/trustee/store/bolt"
)

// rewrapBatch is how many values go into one transaction; tests make it smaller.
var rewrapBatch = 256

// Rewrapped says what Rewrap has done.
type Rewrapped struct {
	From     string `json:"from"` // id of the key that can go
	To       string `json:"to"`
	Values   int    `json:"values"`    // whose data keys were rewrapped now
	StoreKey bool   `json:"store_key"` // the database's MAC key as well
}

// Rewrap wraps every data key of a store under the key of c, where it is under c's old
// one. It can be cut off at any moment and run again: each value is under one of both
// keys, and a server that has both (c as it is) reads all of them. Of an embedded store
// whose trustee runs it is ErrRunning. progress, if set, hears how many of how many
// are done.
func Rewrap(ctx context.Context, c Config, progress func(done, of int)) (*Rewrapped, error) {
	if c.OldEnvelopeKey == "" {
		return nil, errors.New("rewrap: no old envelope key")
	}
	kek, err := c.openKEK(ctx)
	if err != nil {
		return nil, err
	}
	both := kek.(keyring.Both)
	inner, err := c.openForRewrap(ctx)
	if err != nil {
		return nil, err
	}
	st := inner
	if c.WrapStore != nil {
		inner = c.WrapStore(inner)
		st = inner
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if c.Database != "" {
		known, err := authentic.Open(ctx, inner, keyring.Placed{KEK: kek}, random)
		if err != nil {
			return nil, err
		}
		st = known
	}
	out := &Rewrapped{From: both.Old.ID(), To: both.ID()}
	// A replica that has not both keys yet may add a value under the old one meanwhile.
	for range 3 {
		n, err := rewrapValues(ctx, st, both, func(done, of int) {
			if progress != nil {
				progress(out.Values+done, out.Values+of)
			}
		})
		if out.Values += n; err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
	}
	left, err := underOldKey(ctx, st, both)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("rewrap: a replica goes on writing under key %s: start all with --envelope-key and --old-envelope-key, and run this again", both.Old.ID())
	}
	if err == nil && c.Database != "" {
		// Last: until then whoever has only the old key can still begin.
		out.StoreKey, err = authentic.Rewrap(ctx, inner, func(place string, v []byte) ([]byte, error) { return rewrapOne(ctx, both, place, v) })
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (c *Config) openForRewrap(ctx context.Context) (store.Store, error) {
	if c.Database != "" {
		return c.openDatabase(ctx)
	}
	if _, err := os.Stat(c.embedded()); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return bolt.Open(c.embedded(), briefly)
}

type place struct{ bucket, key, place string }

// underOldKey lists what is not under the new key yet.
func underOldKey(ctx context.Context, st store.Store, both keyring.Both) (out []place, err error) {
	d, ok := st.(store.Dumper)
	if !ok {
		return nil, fmt.Errorf("store of type %T cannot be listed", st)
	}
	err = d.Dump(ctx, func(bucket, key string, value []byte) error {
		id, sealed := keyring.SealedUnder(value)
		if !sealed || id == both.ID() {
			return nil
		}
		p, known := keyring.PlaceOf(bucket, key)
		if !known {
			p, known = release.PlaceOf(bucket, key)
		}
		switch {
		case !known:
			return fmt.Errorf("rewrap: %s/%.80q is encrypted, and this version does not know for what place", bucket, key)
		case id != both.Old.ID():
			return fmt.Errorf("rewrap: %s is encrypted under key %.40q, neither the old one, %s, nor the new one", p, id, both.Old.ID())
		}
		out = append(out, place{bucket, key, p})
		return nil
	})
	return out, err
}

func rewrapValues(ctx context.Context, st store.Store, both keyring.Both, progress func(done, of int)) (done int, err error) {
	all, err := underOldKey(ctx, st, both)
	if err != nil {
		return 0, err
	}
	for batch := range slices.Chunk(all, rewrapBatch) {
		if err := st.Update(ctx, func(tx store.Tx) error {
			for _, p := range batch {
				v, err := tx.Get(p.bucket, p.key)
				if err != nil {
					return err
				}
				if v == nil {
					continue // deleted meanwhile
				}
				if v, err = rewrapOne(ctx, both, p.place, v); err == nil && v != nil {
					err = tx.Put(p.bucket, p.key, v)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return done, err
		}
		done += len(batch)
		progress(done, len(all))
	}
	return done, nil
}

// rewrapOne gives a value under the new key, nil if it is there already.
func rewrapOne(ctx context.Context, both keyring.Both, place string, v []byte) ([]byte, error) {
	if id, _ := keyring.SealedUnder(v); id == both.ID() {
		return nil, nil
	}
	return keyring.Rewrap(ctx, both, both.KEK, place, v)
}
