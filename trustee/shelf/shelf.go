// Package shelf keeps the collateral that verifiers may use: imported from
// bundles by an administrator or at the start, kept in the store, and at hand in
// memory. Nothing here fetches, and nothing here vouches for an item: its reader
// checks signatures and dates (tee/collateral).
//
// Invariants: an older item never takes the place of a newer one; what was
// acknowledged survives a crash; a request never waits for a disk.
//
// Trust zone: trustee.
package shelf

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
)

const bucket = "collateral"

// Shelf is a collateral.Source. It is safe for concurrent use.
type Shelf struct {
	store store.Store
	most  limits.Set
	now   func() time.Time
	set   atomic.Pointer[collateral.Set]
	// change is held from a change to the end of its reload, so that no older
	// state of the store takes the place of a newer one in memory.
	change     sync.Mutex
	generation []byte // of what is in memory, guarded by change
}

// maxSkew is how far ahead of the trustee's clock the fetcher's may be.
const maxSkew = time.Hour

// Open loads what the store has; now is the trustee's clock.
func Open(ctx context.Context, s store.Store, most limits.Set, now func() time.Time) (*Shelf, error) {
	if err := most.Validate(); err != nil {
		return nil, fmt.Errorf("collateral: %w", err)
	}
	h := &Shelf{store: s, most: most, now: now}
	h.set.Store(collateral.NewSet())
	return h, h.reload(ctx)
}

// Get implements collateral.Source.
func (h *Shelf) Get(origin string) (*collateral.Item, bool) { return h.set.Load().Get(origin) }

func (h *Shelf) reload(ctx context.Context) error {
	var items []*collateral.Item
	var generation []byte
	err := h.store.View(ctx, func(tx store.Tx) error {
		items = nil
		v, err := tx.Get(meta, "generation")
		if err != nil {
			return err
		}
		generation = bytes.Clone(v)
		return tx.Scan(bucket, "", func(origin string, v []byte) (bool, error) {
			it := new(collateral.Item)
			if err := json.Unmarshal(v, it); err != nil {
				return false, fmt.Errorf("collateral %s: %w", origin, err)
			}
			items = append(items, it)
			return true, nil
		})
	})
	if err != nil {
		return err
	}
	h.set.Store(collateral.NewSet(items...))
	h.generation = generation
	return nil
}

// Import takes the items of a bundle that are newer than those at hand.
func (h *Shelf) Import(ctx context.Context, bundle []byte) (*trusteeapi.CollateralImport, error) {
	set, err := collateral.Parse(bundle)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for _, it := range set.Items() {
		// Such an item would keep every newer one out.
		if at := h.now(); it.Fetched.After(at.Add(maxSkew)) {
			return nil, fmt.Errorf("%w: %s was fetched at %s, and it is %s", ErrMalformed, it.Origin, it.Fetched.Format(time.RFC3339), at.UTC().Format(time.RFC3339))
		}
	}
	out := &trusteeapi.CollateralImport{}
	h.change.Lock()
	defer h.change.Unlock()
	err = h.store.Update(ctx, func(tx store.Tx) error {
		*out = trusteeapi.CollateralImport{}
		before, err := kept(tx)
		if err != nil {
			return err
		}
		for _, it := range set.Items() {
			have, ok, err := store.GetJSON[collateral.Item](tx, bucket, it.Origin)
			if err != nil {
				return err
			}
			if ok && it.Fetched.Before(have.Fetched) {
				out.Older++
				continue
			}
			if err := store.PutJSON(tx, bucket, it.Origin, it); err != nil {
				return err
			}
			out.Taken++
		}
		after, err := kept(tx)
		if err != nil {
			return err
		}
		if err := h.fits(before, after); err != nil {
			return err
		}
		return changed(tx)
	})
	if err != nil {
		return nil, err
	}
	return out, h.reload(ctx)
}

// amount is how much collateral there is.
type amount struct{ items, bytes int }

func kept(tx store.Tx) (a amount, err error) {
	err = tx.Scan(bucket, "", func(_ string, v []byte) (bool, error) {
		a.items++
		a.bytes += len(v)
		return true, nil
	})
	return a, err
}

// fits refuses what makes too much of it, whole. Where a bound was lowered below
// what is there, a newer list in the place of an older one still goes in, unless
// it is larger.
func (h *Shelf) fits(before, after amount) error {
	var err error
	if after.items > before.items {
		err = h.most.Check(limits.CollateralItems, "", after.items)
	}
	if err == nil && after.bytes > before.bytes {
		err = h.most.Check(limits.CollateralBytes, "", after.bytes)
	}
	return err
}

// ImportPath imports a bundle, or all *.json of a folder.
func (h *Shelf) ImportPath(ctx context.Context, path string) error {
	files := []string{path}
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("collateral: %w", err)
	}
	if st.IsDir() {
		if files, err = filepath.Glob(filepath.Join(path, "*.json")); err != nil {
			return fmt.Errorf("collateral: %w", err)
		}
		if len(files) == 0 {
			return fmt.Errorf("collateral: no *.json in %s", path)
		}
	}
	for _, f := range files {
		b, err := readBounded(f)
		if err == nil {
			_, err = h.Import(ctx, b)
		}
		if err != nil {
			return fmt.Errorf("collateral: %s: %w", f, err)
		}
	}
	return nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, collateral.MaxBundle+1))
	if err == nil && len(b) > collateral.MaxBundle {
		err = errors.New("too large")
	}
	return b, err
}

// List describes what is at hand.
func (h *Shelf) List() []trusteeapi.Collateral {
	out := []trusteeapi.Collateral{}
	for _, it := range h.set.Load().Items() {
		out = append(out, trusteeapi.Collateral{Origin: it.Origin, SHA256: it.Digest(), Size: len(it.Body), Fetched: it.Fetched})
	}
	return out
}

// Errors that callers tell apart.
var (
	ErrNotFound  = errors.New("no collateral of that origin")
	ErrMalformed = errors.New("no collateral bundle")
	ErrTooLarge  = errors.New("more collateral than a bundle may have")
)

// Delete removes an item.
func (h *Shelf) Delete(ctx context.Context, origin string) error {
	h.change.Lock()
	defer h.change.Unlock()
	if _, ok := h.Get(origin); !ok || strings.TrimSpace(origin) == "" {
		return ErrNotFound
	}
	if err := h.store.Update(ctx, func(tx store.Tx) error {
		if err := tx.Delete(bucket, origin); err != nil {
			return err
		}
		return changed(tx)
	}); err != nil {
		return err
	}
	return h.reload(ctx)
}
