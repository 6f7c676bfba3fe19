package trace

import (
	"context"

	"github.com/cofferproject/coffer/trustee/store"
)

// Store gives a store whose transactions are spans, with whatever else the store can do.
func Store(s store.Store) store.Store {
	t := traced{s}
	dumper, dumps := s.(store.Dumper)
	health, healthy := s.(store.Health)
	switch {
	case dumps && healthy:
		return struct {
			traced
			store.Dumper
			store.Health
		}{t, dumper, health}
	case dumps:
		return struct {
			traced
			store.Dumper
		}{t, dumper}
	case healthy:
		return struct {
			traced
			store.Health
		}{t, health}
	}
	return t
}

type traced struct{ inner store.Store }

// View implements store.Store.
func (t traced) View(ctx context.Context, fn func(store.Tx) error) error {
	ctx, span := Start(ctx, SpanRead)
	err := t.inner.View(ctx, fn)
	span.End(err)
	return err
}

// Update implements store.Store.
func (t traced) Update(ctx context.Context, fn func(store.Tx) error) error {
	ctx, span := Start(ctx, SpanWrite)
	err := t.inner.Update(ctx, fn)
	span.End(err)
	return err
}

// Close implements store.Store.
func (t traced) Close() error { return t.inner.Close() }
