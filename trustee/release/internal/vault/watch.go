package vault

import (
	"errors"
	"sync"
)

// Limits of those who wait for a new version. Only attested TEEs come so far.
const (
	maxWaiting   = 2000 // of all
	maxWaitingIn = 500  // in one namespace
	maxWaitingOf = 100  // for one secret
)

// ErrBusy says that as many wait as may.
var ErrBusy = errors.New("too many wait for a new version")

// watch tells those who wait that a secret has changed.
type watch struct {
	mu      sync.Mutex
	waiting int
	in      map[string]int // namespace
	at      map[string]*waiters
}

type waiters struct {
	n  int
	ch chan struct{} // closed by a change
}

func newWatch() *watch { return &watch{in: map[string]int{}, at: map[string]*waiters{}} }

// Watch gives a channel that is closed when the secret changes; leave must be
// called once. A change on another replica is not seen.
func (v *Vault) Watch(ns, name string) (changed <-chan struct{}, leave func(), err error) {
	w, key := v.watch, ns+"/"+name
	w.mu.Lock()
	defer w.mu.Unlock()
	at := w.at[key]
	if w.waiting >= maxWaiting || w.in[ns] >= maxWaitingIn || at != nil && at.n >= maxWaitingOf {
		return nil, nil, ErrBusy
	}
	if at == nil {
		at = &waiters{ch: make(chan struct{})}
		w.at[key] = at
	}
	at.n++
	w.waiting++
	w.in[ns]++
	return at.ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		at.n--
		w.waiting--
		if w.in[ns]--; w.in[ns] == 0 {
			delete(w.in, ns)
		}
		if at.n == 0 && w.at[key] == at {
			delete(w.at, key)
		}
	}, nil
}

func (w *watch) changed(ns, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at := w.at[ns+"/"+name]; at != nil {
		close(at.ch)
		delete(w.at, ns+"/"+name)
	}
}

// Waiting gives how many wait.
func (v *Vault) Waiting() int {
	v.watch.mu.Lock()
	defer v.watch.mu.Unlock()
	return v.watch.waiting
}
