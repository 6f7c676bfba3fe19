package adminapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/cofferproject/coffer/trustee/session"
	"github.com/cofferproject/coffer/trustee/store"
)

const usedTokens = "admin-tokens-used"

// useOnce reports whether a token is used for the first time: of this process, or
// where replicas share the store, of all of them.
func (h *Handler) useOnce(ctx context.Context, id string, now time.Time) (bool, error) {
	if !h.once.use(id, now) {
		return false, nil
	}
	if !h.cfg.Replicas {
		return true, nil
	}
	sum := sha256.Sum256([]byte(id)) // an id may be longer than a key
	key, fresh := hex.EncodeToString(sum[:]), false
	err := h.cfg.Store.Update(ctx, func(tx store.Tx) error {
		v, err := tx.Get(usedTokens, key)
		if fresh = v == nil; err != nil || !fresh {
			return err
		}
		if err := session.ForgetAt(tx, now.Add(rememberFor), usedTokens, key); err != nil {
			return err
		}
		return tx.Put(usedTokens, key, []byte{1})
	})
	return fresh && err == nil, err
}
