package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// crowd runs work on n clients at once until the time is over.
func crowd(ctx context.Context, p *pod, n int, d time.Duration, work func(context.Context, *client) error) (done int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var count atomic.Int64
	var once sync.Once
	var wg sync.WaitGroup
	for range n {
		c, cerr := p.client()
		if cerr != nil {
			return 0, cerr
		}
		wg.Go(func() {
			defer c.http.CloseIdleConnections()
			for ctx.Err() == nil {
				if werr := work(context.WithoutCancel(ctx), c); werr != nil {
					once.Do(func() { err = werr })
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	return count.Load(), err
}

// times does something a number of times on several clients.
func times(ctx context.Context, p *pod, workers, n int, work func(context.Context, *client) error) error {
	var left atomic.Int64
	left.Store(int64(n))
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for i := range workers {
		c, err := p.client()
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer c.http.CloseIdleConnections()
			for left.Add(-1) >= 0 && errs[i] == nil && ctx.Err() == nil {
				errs[i] = work(ctx, c)
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

func handshakes(ctx context.Context, b *bench) error {
	s, p := b.server, b.pod
	c, err := p.client()
	if err != nil {
		return err
	}
	if err := c.handshake(ctx); err != nil {
		return err
	}
	if err := c.opens(); err != nil {
		return err
	}
	alone, err := p384(1)
	if err != nil {
		return err
	}
	// The machine's speed changes from one second to the next: each of several loads has
	// verifications right before and after, and the ratios' median counts.
	all := runtime.GOMAXPROCS(0)
	var verify, server, guests, ratio, rate []float64
	before, err := p384(all)
	if err != nil {
		return err
	}
	for range handshakeLoads {
		theirs, mine, begun := s.cpu(), own(), time.Now()
		n, err := crowd(ctx, p, b.workers, b.duration/handshakeLoads, func(ctx context.Context, c *client) error { return c.handshake(ctx) })
		if err != nil {
			return err
		}
		rate = append(rate, float64(n)/time.Since(begun).Seconds())
		server = append(server, float64(s.cpu()-theirs)/float64(n))
		guests = append(guests, float64(own()-mine)/float64(n))
		after, err := p384(all)
		if err != nil {
			return err
		}
		one := float64(before+after) / 2
		verify, ratio, before = append(verify, one), append(ratio, server[len(server)-1]/one), after
	}
	b.verify, b.rate = time.Duration(median(verify)), median(rate)
	b.say("one P-384 verification, CPU, all processors at it", micros(b.verify))
	b.say("the same on one processor, the others idle", micros(alone))
	b.say("server's CPU for a handshake", micros(time.Duration(median(server))))
	b.most("server's CPU for a handshake against one P-384 verification", median(ratio), 2.5, "%.2f")
	b.say("the same, smallest and largest", fmt.Sprintf("%.2f to %.2f", slices.Min(ratio), slices.Max(ratio)))
	b.say("client's CPU for a handshake", micros(time.Duration(median(guests))))
	b.least("handshakes a second, client beside it", b.rate, 700, "%.0f")
	b.say("handshakes a second that the CPU of both allows on two cores", fmt.Sprintf("%.0f", 2e9/(median(server)+median(guests))))
	return nil
}

// handshakeLoads is an odd number, for the median.
const handshakeLoads = 7

// paced has handshakes begin at 60 % of the rate, whatever became of those before.
func paced(ctx context.Context, b *bench) error {
	if b.rate == 0 {
		return errors.New("goes by the rate of handshakes")
	}
	p := b.pod
	every := time.Duration(float64(time.Second) / (0.6 * b.rate))
	idle := make(chan *client, 4*b.workers)
	for range cap(idle) {
		c, err := p.client()
		if err != nil {
			return err
		}
		if err := c.handshake(ctx); err != nil { // the connection stands
			return err
		}
		idle <- c
	}
	before, err := b.server.durations()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	seen := map[string][]time.Duration{}
	var first error
	var wg sync.WaitGroup
	late := 0
	tick := time.NewTicker(every)
	defer tick.Stop()
	for end := time.Now().Add(b.duration); time.Now().Before(end); {
		<-tick.C
		var c *client
		select {
		case c = <-idle:
		default:
			late++
			continue
		}
		wg.Go(func() {
			err := c.handshake(ctx)
			mu.Lock()
			seen["auth"], seen["attest"] = append(seen["auth"], c.auth), append(seen["attest"], c.attest)
			if first == nil {
				first = err
			}
			mu.Unlock()
			idle <- c
		})
	}
	wg.Wait()
	if first != nil {
		return first
	}
	after, err := b.server.durations()
	if err != nil {
		return err
	}
	for _, route := range []string{"auth", "attest"} {
		l := seen[route]
		slices.Sort(l)
		at := func(q float64) string { return l[int(q*float64(len(l)-1))].Round(10 * time.Microsecond).String() }
		b.say("60 % load: /"+route+" as the client sees it, median", at(0.5))
		b.say("60 % load: /"+route+" as the client sees it, p99", at(0.99))
		h := after[route].since(before[route])
		b.say("60 % load: /"+route+" in the server, median at most", h.quantile(0.5).String())
		b.most("60 % load: /"+route+" in the server, p99 at most", h.quantile(0.99).Seconds()*1000, 10, "%.4g ms")
	}
	b.most("60 % load: handshakes that could not begin in time", float64(late), 0, "%.0f")
	return nil
}

// attestedOnce gives work that attests with each client once, and then does more.
func attestedOnce(more func(*client) error) func(context.Context, *client) error {
	var attested sync.Map
	return func(ctx context.Context, c *client) error {
		if _, ok := attested.LoadOrStore(c, true); !ok {
			if err := c.handshake(ctx); err != nil {
				return err
			}
		}
		return more(c)
	}
}

func reads(ctx context.Context, b *bench) error {
	s := b.server
	syncs, err := s.metric("coffer_trustee_audit_syncs_total")
	if err != nil {
		return err
	}
	before, mine, begun := s.cpu(), own(), time.Now()
	n, err := crowd(ctx, b.pod, b.workers, b.duration, attestedOnce((*client).read))
	if err != nil {
		return err
	}
	took := time.Since(begun)
	after, err := s.metric("coffer_trustee_audit_syncs_total")
	if err != nil {
		return err
	}
	each, client := (s.cpu()-before)/time.Duration(n), (own()-mine)/time.Duration(n)
	b.say("server's CPU for a read", micros(each))
	b.say("client's CPU for a read", micros(client))
	b.least("resource reads a second on sessions, durably audited", float64(n)/took.Seconds(), 2500, "%.0f")
	b.say("reads a second that the CPU of both allows on two cores", fmt.Sprintf("%.0f", 2/(each+client).Seconds()))
	b.say("syncs of the audit log a second", fmt.Sprintf("%.0f", (after-syncs)/took.Seconds()))
	return nil
}

// sessions leaves attested sessions open.
func sessions(ctx context.Context, b *bench) error {
	before, anon, disk := b.server.rss(), b.server.anonymous(), b.server.disk()
	err := times(ctx, b.pod, b.workers, b.sessions, func(ctx context.Context, c *client) error { return c.handshake(ctx) })
	if err != nil {
		return err
	}
	b.most(fmt.Sprintf("RSS with %d attested sessions more", b.sessions), mib(b.server.rss()-before), 50, "%+.1f MiB")
	b.say("of which not pages of its files", fmt.Sprintf("%+.1f MiB", mib(b.server.anonymous()-anon)))
	b.say("state on disk with them", fmt.Sprintf("%+.1f MiB", mib(b.server.disk()-disk)))
	return nil
}

// flood opens sessions of which nothing comes.
func flood(ctx context.Context, b *bench) error {
	open := func(n int) error {
		return times(ctx, b.pod, b.workers, n, func(_ context.Context, c *client) error { _, err := c.challenge(); return err })
	}
	if err := open(2000); err != nil { // the heap is as large as this load makes it
		return err
	}
	before, disk := b.server.rss(), b.server.disk()
	if err := open(b.flood); err != nil {
		return err
	}
	b.most(fmt.Sprintf("RSS after %d /auth", b.flood), mib(b.server.rss()-before), 5, "%+.1f MiB")
	b.most("state on disk after them", mib(b.server.disk()-disk), 0, "%+.1f MiB")
	return nil
}
