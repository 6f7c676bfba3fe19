package secretstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// timeout bounds a fetch, logging in to the store included.
	timeout = 10 * time.Second
	// share is how many different secrets of one store one namespace may wait for.
	share = 16
)

// Set has the stores of a trustee. A nil Set has none.
type Set struct {
	// Observe, if set before the first fetch, hears of each request to a store: one of
	// Outcomes, and how long it took. One that found no place took nothing.
	Observe func(store, outcome string, took time.Duration)

	stores  map[string]*entry
	timeout time.Duration

	mu      sync.Mutex
	flights map[key]*flight
	busy    map[[2]string]int // store and namespace: flights

	stop context.CancelFunc
	kept sync.WaitGroup
}

type entry struct {
	Store
	spec *Spec
}

// key is what requests share a fetch by. The namespace is in it, so that the flights of
// one never stand for another's.
type key struct {
	ns, store string
	want      Want
}

// flight is one fetch and those who wait for it.
type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiting int
	secret  *Secret
	err     error
}

// NewSet opens stores. None is asked for anything yet.
func NewSet(ctx context.Context, specs []*Spec, open func(context.Context, *Spec) (Store, error)) (*Set, error) {
	s := &Set{stores: map[string]*entry{}, timeout: timeout, flights: map[key]*flight{}, busy: map[[2]string]int{}}
	for _, spec := range specs {
		if err := spec.check(); err != nil {
			return nil, fmt.Errorf("secret store %w", err)
		}
		if s.stores[spec.Name] != nil {
			return nil, fmt.Errorf("secret store %s: there is one of that name", spec.Name)
		}
		st, err := open(ctx, spec)
		if err != nil {
			return nil, fmt.Errorf("secret store %s: %w", spec.Name, err)
		}
		s.stores[spec.Name] = &entry{st, spec}
	}
	return s, nil
}

// Start begins to renew what stores have to renew; warn hears of what failed.
func (s *Set) Start(ctx context.Context, warn func(store, what string, err error)) {
	if s == nil {
		return
	}
	ctx, s.stop = context.WithCancel(ctx)
	for name, e := range s.stores {
		if k, ok := e.Store.(Keeper); ok {
			s.kept.Go(func() { k.Keep(ctx, func(what string, err error) { warn(name, what, err) }) })
		}
	}
}

// Close ends renewing.
func (s *Set) Close() {
	if s == nil || s.stop == nil {
		return
	}
	s.stop()
	s.kept.Wait()
}

// Info is a store as an administrator sees it.
type Info struct {
	Name, Kind string
	Numbered   bool
}

// In lists the stores that a namespace may use.
func (s *Set) In(ns string) []Info {
	var out []Info
	if s == nil {
		return out
	}
	for _, name := range slices.Sorted(maps.Keys(s.stores)) {
		if e := s.stores[name]; e.spec.serves(ns) {
			out = append(out, Info{name, e.spec.Kind, e.Numbered()})
		}
	}
	return out
}

// store gives a store of a namespace, or ErrUnknown, which is the same for one that is
// another namespace's.
func (s *Set) store(ns, name string) (*entry, error) {
	if s != nil {
		if e := s.stores[name]; e != nil && e.spec.serves(ns) {
			return e, nil
		}
	}
	return nil, fmt.Errorf("%w: %.70q", ErrUnknown, name)
}

// Check refuses what a namespace cannot map to a store.
func (s *Set) Check(ns, store string, w Want) error {
	e, err := s.store(ns, store)
	if err != nil {
		return err
	}
	if w.Name == "" || len(w.Name) > MaxName || len(w.Field) > MaxName || len(w.Version) > MaxName {
		return fmt.Errorf("a name has 1 to %d bytes, a field and a version at most that", MaxName)
	}
	return e.Check(w)
}

// Numbered reports whether a store counts versions.
func (s *Set) Numbered(ns, store string) (bool, error) {
	e, err := s.store(ns, store)
	if err != nil {
		return false, err
	}
	return e.Numbered(), nil
}

// Fetch gives a secret. The caller clears its value, which is nobody else's.
func (s *Set) Fetch(ctx context.Context, ns, store string, w Want) (*Secret, error) {
	e, err := s.store(ns, store)
	if err != nil {
		return nil, err
	}
	if err := s.Check(ns, store, w); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAbsent, err) // mapped when the store was another kind
	}
	f, err := s.join(e, key{ns, store, w})
	if err != nil {
		return nil, err
	}
	defer s.leave(f, key{ns, store, w})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-f.done:
	}
	if f.err != nil {
		return nil, f.err
	}
	out := *f.secret
	out.Value = bytes.Clone(out.Value)
	return &out, nil
}

// join takes part in a flight, and begins it if there is none.
func (s *Set) join(e *entry, k key) (*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flights[k]; f != nil {
		f.waiting++
		return f, nil
	}
	of := [2]string{k.store, k.ns}
	if s.busy[of] >= share {
		s.observe(k.store, ErrBusy, 0)
		return nil, ErrBusy
	}
	s.busy[of]++
	// Nobody's request of its own: the first to ask may go before the others.
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	f := &flight{done: make(chan struct{}), cancel: cancel, waiting: 1}
	s.flights[k] = f
	go s.fly(ctx, e, k, f)
	return f, nil
}

func (s *Set) fly(ctx context.Context, e *entry, k key, f *flight) {
	defer f.cancel()
	began := time.Now()
	secret, err := e.Fetch(ctx, k.want)
	left := errors.Is(ctx.Err(), context.Canceled)
	switch {
	case err != nil && ctx.Err() != nil && !errors.Is(err, ErrAway):
		err = fmt.Errorf("%w: %w", ErrAway, err)
	case err == nil && len(secret.Value) == 0:
		err = fmt.Errorf("%w: the secret is empty", ErrMalformed)
	case err == nil && len(secret.Value) > MaxValue:
		clear(secret.Value)
		err = fmt.Errorf("%w: a secret of more than %d bytes", ErrMalformed, MaxValue)
	}
	if left && err != nil {
		s.observe(k.store, errLeft, time.Since(began))
	} else {
		s.observe(k.store, err, time.Since(began))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Who comes from now on gets what the store says from now on.
	s.end(k, f)
	of := [2]string{k.store, k.ns}
	if s.busy[of]--; s.busy[of] == 0 {
		delete(s.busy, of)
	}
	if f.err = err; err == nil {
		f.secret = secret
		if f.waiting == 0 {
			clear(secret.Value)
		}
	}
	close(f.done)
}

// errLeft is the outcome of a fetch that nobody waited for any more.
var errLeft = errors.New("nobody waits for it")

// outcomes are what Observe hears, by their errors.
var outcomes = []struct {
	err  error
	name string
}{
	{nil, "fetched"}, {ErrAbsent, "absent"}, {ErrDeleted, "deleted"}, {ErrAway, "away"}, {ErrRefused, "refused"}, {ErrMalformed, "malformed"}, {ErrBusy, "busy"}, {errLeft, "left"},
}

// Outcomes lists what Observe hears.
func Outcomes() []string {
	var out []string
	for _, o := range outcomes {
		out = append(out, o.name)
	}
	return out
}

func (s *Set) observe(store string, err error, took time.Duration) {
	if s.Observe == nil {
		return
	}
	name := "" // an error of none of the kinds, counted with others
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			name = o.name
			break
		}
	}
	s.Observe(store, name, took)
}

func (s *Set) end(k key, f *flight) {
	if s.flights[k] == f {
		delete(s.flights, k)
	}
}

// leave forgets the secret with the last who waited, and ends a fetch that nobody waits
// for.
func (s *Set) leave(f *flight, k key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.waiting--; f.waiting > 0 {
		return
	}
	f.cancel()
	s.end(k, f)
	if f.secret != nil {
		clear(f.secret.Value)
	}
}
