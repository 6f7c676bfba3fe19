package main

import (
	"context"
	"fmt"
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

// rate is what handshakes has found, for paced.
var rate float64

func handshakes(ctx context.Context, o options, s *server, p *pod, verify time.Duration) error {
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
	before, mine, begun := s.cpu(), own(), time.Now()
	n, err := crowd(ctx, p, o.workers, o.duration, func(ctx context.Context, c *client) error { return c.handshake(ctx) })
	if err != nil {
		return err
	}
	took := time.Since(begun)
	each := (s.cpu() - before) / time.Duration(n)
	rate = float64(n) / took.Seconds()
	say("handshakes a second, client beside it", fmt.Sprintf("%.0f", rate), "700")
	say("server's CPU for each", each.Round(time.Microsecond).String(), "")
	say("against one P-384 verification", fmt.Sprintf("%.2f", float64(each)/float64(verify)), "2.5")
	say("client's CPU for each", ((own() - mine) / time.Duration(n)).Round(time.Microsecond).String(), "")
	return nil
}

// paced has handshakes begin at 60 % of the rate, whatever became of those before.
func paced(ctx context.Context, o options, _ *server, p *pod, _ time.Duration) error {
	every := time.Duration(float64(time.Second) / (0.6 * rate))
	idle := make(chan *client, 4*o.workers)
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
	var mu sync.Mutex
	var auth, attest []time.Duration
	var first error
	var wg sync.WaitGroup
	late := 0
	tick := time.NewTicker(every)
	defer tick.Stop()
	for end := time.Now().Add(o.duration); time.Now().Before(end); {
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
			auth, attest = append(auth, c.auth), append(attest, c.attest)
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
	for what, l := range map[string][]time.Duration{"/auth": auth, "/attest": attest} {
		slices.Sort(l)
		at := func(q float64) string { return l[int(q*float64(len(l)-1))].Round(10 * time.Microsecond).String() }
		say("60 % load: "+what+" as the client sees it, median", at(0.5), "")
		say("60 % load: "+what+" as the client sees it, p99", at(0.99), "10ms of server time")
	}
	if late > 0 {
		say("60 % load: handshakes that could not begin in time", fmt.Sprint(late), "0")
	}
	return nil
}

func reads(ctx context.Context, o options, s *server, p *pod, _ time.Duration) error {
	syncs, err := s.metric("coffer_trustee_audit_syncs_total")
	if err != nil {
		return err
	}
	before, begun := s.cpu(), time.Now()
	var attested sync.Map
	n, err := crowd(ctx, p, o.workers, o.duration, func(ctx context.Context, c *client) error {
		if _, ok := attested.LoadOrStore(c, true); !ok {
			if err := c.handshake(ctx); err != nil {
				return err
			}
		}
		return c.read()
	})
	if err != nil {
		return err
	}
	took := time.Since(begun)
	after, err := s.metric("coffer_trustee_audit_syncs_total")
	if err != nil {
		return err
	}
	say("resource reads a second on sessions, durably audited", fmt.Sprintf("%.0f", float64(n)/took.Seconds()), "2500")
	say("syncs of the audit log a second", fmt.Sprintf("%.0f", (after-syncs)/took.Seconds()), "")
	say("server's CPU for each read", ((s.cpu() - before) / time.Duration(n)).Round(time.Microsecond).String(), "")
	return nil
}

// many stores secrets and compares what a read and a new secret cost before and after.
func many(ctx context.Context, o options, s *server, p *pod, _ time.Duration) error {
	n := s.client.Namespace(namespace)
	put := func(from, to int) (time.Duration, error) {
		begun := time.Now()
		var next atomic.Int64
		next.Store(int64(from))
		errs := make(chan error, 8)
		for range cap(errs) {
			go func() {
				for {
					i := int(next.Add(1)) - 1
					if i >= to {
						errs <- nil
						return
					}
					if _, err := n.PutResource(ctx, fmt.Sprintf("default/many/%d", i), []byte("x")); err != nil {
						errs <- err
						return
					}
				}
			}()
		}
		var first error
		for range cap(errs) {
			if err := <-errs; err != nil && first == nil {
				first = err
			}
		}
		return time.Since(begun) / time.Duration(to-from), first
	}
	readCPU := func() (time.Duration, error) {
		before := s.cpu()
		var attested sync.Map
		done, err := crowd(ctx, p, o.workers, o.duration, func(ctx context.Context, c *client) error {
			if _, ok := attested.LoadOrStore(c, true); !ok {
				if err := c.handshake(ctx); err != nil {
					return err
				}
			}
			return c.read()
		})
		if err != nil {
			return 0, err
		}
		return (s.cpu() - before) / time.Duration(done), nil
	}
	fewPut, err := put(0, 100)
	if err != nil {
		return err
	}
	fewRead, err := readCPU()
	if err != nil {
		return err
	}
	if _, err := put(100, o.secrets-100); err != nil {
		return err
	}
	manyPut, err := put(o.secrets-100, o.secrets)
	if err != nil {
		return err
	}
	manyRead, err := readCPU()
	if err != nil {
		return err
	}
	say(fmt.Sprintf("a read with %d secrets against 100, server's CPU", o.secrets), fmt.Sprintf("%.2f", float64(manyRead)/float64(fewRead)), "1.25 at 1,000,000")
	say(fmt.Sprintf("a new secret with %d secrets against 100, time", o.secrets), fmt.Sprintf("%.2f", float64(manyPut)/float64(fewPut)), "")
	return nil
}

// open leaves sessions open, then floods.
func open(ctx context.Context, o options, s *server, p *pod, _ time.Duration) error {
	challenge := func(n int) error {
		var left atomic.Int64
		left.Store(int64(n))
		errs := make(chan error, o.workers)
		for range o.workers {
			c, err := p.client()
			if err != nil {
				return err
			}
			go func() {
				for left.Add(-1) >= 0 {
					if _, err := c.challenge(); err != nil {
						errs <- err
						return
					}
				}
				errs <- nil
			}()
		}
		var first error
		for range o.workers {
			if err := <-errs; err != nil && first == nil {
				first = err
			}
		}
		return first
	}
	before, disk := s.rss(), s.disk()
	if err := challenge(o.sessions); err != nil {
		return err
	}
	say(fmt.Sprintf("RSS with %d sessions more that have not attested", o.sessions), "+"+mib(s.rss()-before), "50 MiB")
	say("state on disk with them", "+"+mib(s.disk()-disk), "")
	before, disk = s.rss(), s.disk()
	if err := challenge(o.flood); err != nil {
		return err
	}
	say(fmt.Sprintf("RSS after %d /auth more", o.flood), "+"+mib(s.rss()-before), "")
	say("state on disk after them", "+"+mib(s.disk()-disk), "")
	return nil
}
