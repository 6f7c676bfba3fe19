package channel

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Every preamble message has one shape: Magic, the sender's nonce, and the
// peer's nonce or zeros while that is unknown.
//
//	host  -> guest  hello    Magic Nh 0     (sent again until answered)
//	guest -> host   answer   Magic Ng Nh    (once per Nh)
//	host  -> guest  confirm  Magic Nh Ng
//
// Whatever stands between messages is left over from an earlier connection and
// is skipped. The host speaks first, because a virtio port silently drops what
// the guest writes while no host is connected.
const (
	nonceLen = 16
	msgLen   = len(Magic) + 2*nonceLen
	maxStale = 1 << 20 // bytes skipped before giving up
)

type nonce [nonceLen]byte

var errStale = errors.New("no preamble in the first 1 MiB: the other end does not speak this protocol")

func putMsg(own, echo nonce) []byte {
	b := append([]byte(Magic), own[:]...)
	return append(b, echo[:]...)
}

// readMsg skips to the next preamble message, counting what it skips against
// *budget.
func readMsg(r *bufio.Reader, budget *int) (from, echo nonce, err error) {
	// 'c' occurs once in Magic, so a mismatch can only restart at itself.
	for have := 0; have < len(Magic); {
		c, err := r.ReadByte()
		if err != nil {
			return from, echo, err
		}
		switch {
		case c == Magic[have]:
			have++
		case c == Magic[0]:
			have = 1
		default:
			have = 0
		}
		if *budget--; *budget < 0 {
			return from, echo, errStale
		}
	}
	if _, err := io.ReadFull(r, from[:]); err != nil {
		return from, echo, err
	}
	_, err = io.ReadFull(r, echo[:])
	return from, echo, err
}

// hostPreamble returns when a live guest has echoed a nonce made here.
func hostPreamble(ctx context.Context, r *bufio.Reader, w io.Writer) error {
	own := newNonce()
	var (
		mu       sync.Mutex // held while writing
		answered bool
		done     = make(chan struct{})
	)
	hello := func() error {
		mu.Lock()
		defer mu.Unlock()
		if answered {
			return nil
		}
		_, err := w.Write(putMsg(own, nonce{}))
		return err
	}
	go func() {
		// An earlier session's guest side may swallow a hello; it may also
		// still be booting, then the copies queue and are skipped there.
		for wait := 250 * time.Millisecond; ; wait = min(2*wait, 4*time.Second) {
			if hello() != nil {
				return // the reader sees the broken connection too
			}
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	}()
	defer close(done)
	budget := maxStale
	for {
		from, echo, err := readMsg(r, &budget)
		if err != nil {
			return err
		}
		if echo != own || from == (nonce{}) {
			continue
		}
		mu.Lock()
		defer mu.Unlock()
		answered = true
		_, err = w.Write(putMsg(own, from))
		return err
	}
}

// guestPreamble returns when a host has echoed a nonce made here.
func guestPreamble(r *bufio.Reader, w io.Writer) error {
	own := newNonce()
	var host nonce
	budget := maxStale
	for {
		from, echo, err := readMsg(r, &budget)
		if err != nil {
			return err
		}
		switch {
		case echo == own && from == host && host != (nonce{}):
			return nil
		case echo == (nonce{}) && from != host:
			host = from
			if _, err := w.Write(putMsg(own, host)); err != nil {
				return err
			}
		default: // a repeated hello, or stale
			if budget -= msgLen; budget < 0 {
				return errStale
			}
		}
	}
}

func newNonce() nonce {
	var n nonce
	_, _ = rand.Read(n[:]) // never fails: crypto/rand ends the process instead
	return n
}

// Host opens a session from the host's end of rw. It waits for the guest to
// answer until ctx ends. The session owns rw; on error rw is closed.
func Host(ctx context.Context, rw io.ReadWriteCloser) (*Session, error) {
	return start(ctx, rw, true)
}

// Guest opens a session from the guest's end of rw. It waits for a host until
// ctx ends. The session owns rw; on error rw is closed.
func Guest(ctx context.Context, rw io.ReadWriteCloser) (*Session, error) {
	return start(ctx, rw, false)
}

func start(ctx context.Context, rw io.ReadWriteCloser, host bool) (*Session, error) {
	br := bufio.NewReader(rw)
	stop := context.AfterFunc(ctx, func() { _ = rw.Close() })
	var err error
	if host {
		err = hostPreamble(ctx, br, rw)
	} else {
		err = guestPreamble(br, rw)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = rw.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("opening the guest channel: %w", err)
	}
	return newSession(rw, br, host)
}
