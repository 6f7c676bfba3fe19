package adminapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/session"
	"github.com/cofferproject/coffer/trustee/store"
)

const usedTokens = "admin-tokens-used"

// useOnce reports whether a token is used for the first time: of this process, or
// where replicas share the store, of all of them.
func (h *Handler) useOnce(ctx context.Context, t *trusteeapi.Token, now time.Time) (bool, error) {
	end := t.Claims.End()
	sum := sha256.Sum256([]byte(t.KeyID + "/" + t.Claims.ID)) // an id may be longer than a key
	fresh, err := h.once.use(t.KeyID, tokenID(sum[:len(tokenID{})]), end, now)
	if err != nil || !fresh || !h.cfg.Replicas {
		return fresh, err
	}
	key := hex.EncodeToString(sum[:])
	err = h.cfg.Store.Update(ctx, func(tx store.Tx) error {
		v, err := tx.Get(usedTokens, key)
		if fresh = v == nil; err != nil || !fresh {
			return err
		}
		// Clocks of replicas may differ.
		if err := session.ForgetAt(tx, end.Add(5*time.Minute), usedTokens, key); err != nil {
			return err
		}
		return tx.Put(usedTokens, key, []byte{1})
	})
	return fresh && err == nil, err
}

// onceOnly remembers the tokens that were used until they have ended. Only verified
// tokens get in, so that its size is administrators' doing; still it is bounded: one
// that it cannot remember is refused, and nobody's tokens take more than half of it.
type onceOnly struct {
	most int

	mu    sync.Mutex
	ends  map[int64]*usedUp // by the minute in which the tokens end
	count int
	of    map[string]int // by key of the credential
}

// tokenID is the beginning of a hash of the token's key and id.
type tokenID [16]byte

// usedUp are tokens that end in one minute.
type usedUp struct {
	ids map[tokenID]bool
	of  map[string]int
}

func newOnceOnly(most int) *onceOnly {
	return &onceOnly{most: most, ends: map[int64]*usedUp{}, of: map[string]int{}}
}

// use reports whether a token of a key is used for the first time. An error is a
// *limits.Error.
func (o *onceOnly) use(key string, id tokenID, end, now time.Time) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for m, u := range o.ends {
		if u.ids[id] {
			return false, nil
		}
		if m < now.Unix()/60 { // all of that minute have ended
			o.forget(m, u)
		}
	}
	if o.count >= o.most || o.of[key] >= max(o.most/2, 1) {
		return false, &limits.Error{Name: limits.AdminTokens, Most: o.most}
	}
	m := end.Unix() / 60
	u := o.ends[m]
	if u == nil {
		u = &usedUp{map[tokenID]bool{}, map[string]int{}}
		o.ends[m] = u
	}
	u.ids[id] = true
	u.of[key]++
	o.of[key]++
	o.count++
	return true, nil
}

func (o *onceOnly) forget(minute int64, u *usedUp) {
	for key, n := range u.of {
		if o.of[key] -= n; o.of[key] == 0 {
			delete(o.of, key)
		}
	}
	o.count -= len(u.ids)
	delete(o.ends, minute)
}
