package shelf

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/cofferproject/coffer/trustee/store"
)

const meta = "collateral-meta"

// changed counts the changes, so that other replicas find out.
func changed(tx store.Tx) error {
	v, err := tx.Get(meta, "generation")
	if err != nil {
		return err
	}
	n := uint64(0)
	if v != nil {
		n = binary.BigEndian.Uint64(v)
	}
	return tx.Put(meta, "generation", binary.BigEndian.AppendUint64(nil, n+1))
}

// Refresh takes up what another replica has changed.
func (h *Shelf) Refresh(ctx context.Context) error {
	var now []byte
	if err := h.store.View(ctx, func(tx store.Tx) error {
		v, err := tx.Get(meta, "generation")
		now = bytes.Clone(v)
		return err
	}); err != nil {
		return err
	}
	h.change.Lock()
	defer h.change.Unlock()
	if bytes.Equal(now, h.generation) {
		return nil
	}
	return h.reload(ctx)
}
