package outbound

import (
	"context"
	"fmt"
	"time"
)

// margin is how long before its end a token is not used any more.
const margin = 2 * time.Minute

// Tokens keeps a token of T for as long as it is good, and gets the next one.
type Tokens[T any] struct {
	slot  chan struct{} // held by who reads or changes what follows
	have  bool
	token T
	until time.Time
	now   func() time.Time
	get   func(ctx context.Context) (token T, life time.Duration, err error)
}

// NewTokens makes a Tokens. A token whose life get gives as 0 is used once.
func NewTokens[T any](now func() time.Time, get func(context.Context) (T, time.Duration, error)) *Tokens[T] {
	return &Tokens[T]{slot: make(chan struct{}, 1), now: now, get: get}
}

// Get gives a token. Whoever waits while another gets one waits no longer than its own
// time.
func (t *Tokens[T]) Get(ctx context.Context) (token T, err error) {
	select {
	case t.slot <- struct{}{}:
		defer func() { <-t.slot }()
	case <-ctx.Done():
		return token, fmt.Errorf("%w: waiting for a token: %w", ErrAway, ctx.Err())
	}
	if t.have && t.now().Add(margin).Before(t.until) {
		return t.token, nil
	}
	token, life, err := t.get(ctx)
	if err != nil {
		return token, err
	}
	t.token, t.until, t.have = token, t.now().Add(life), true
	return token, nil
}

// Drop forgets the token, which a service has refused: it may have been taken back.
func (t *Tokens[T]) Drop() {
	select {
	case t.slot <- struct{}{}:
		t.have = false
		<-t.slot
	default: // somebody is getting another one
	}
}
