package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	few    = 100 // what many secrets are compared with
	rounds = 5
	fillBy = 64 // secrets at once
)

// fill stores the secrets with numbers from first up to end.
func fill(ctx context.Context, s *server, first, end int) error {
	n := s.client.Namespace(namespace)
	var next atomic.Int64
	next.Store(int64(first))
	errs := make([]error, fillBy)
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for errs[w] == nil {
				i := int(next.Add(1)) - 1
				if i >= end {
					return
				}
				_, errs[w] = n.PutResource(ctx, fmt.Sprintf("default/many/%d", i), []byte("x"))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// secrets compares what a read and a new secret cost a server with many secrets
// with what they cost one with few, in turn, so that a machine that changes its
// speed disturbs both alike.
func secrets(ctx context.Context, b *bench) error {
	small, err := b.start(ctx, "few", "")
	if err != nil {
		return err
	}
	defer small.stop()
	large, err := b.start(ctx, "many", "")
	if err != nil {
		return err
	}
	defer large.stop()
	type side struct {
		s        *server
		p        *pod
		stored   int
		cpu, new []float64
	}
	sides := []*side{{s: small, stored: few}, {s: large, stored: b.secrets}}
	for _, x := range sides {
		if x.p, err = prepare(ctx, x.s); err != nil {
			return err
		}
		begun := time.Now()
		if err := fill(ctx, x.s, 0, x.stored); err != nil {
			return err
		}
		b.say(fmt.Sprintf("%d secrets stored in", x.stored), time.Since(begun).Round(time.Millisecond).String())
	}
	b.say(fmt.Sprintf("state on disk with %d secrets", b.secrets), fmt.Sprintf("%.1f MiB", mib(large.disk())))
	b.say(fmt.Sprintf("RSS with %d secrets, of which not pages of its files", b.secrets), fmt.Sprintf("%.1f MiB, %.1f MiB", mib(large.rss()), mib(large.anonymous())))
	for range rounds {
		for _, x := range sides {
			before := x.s.cpu()
			n, err := crowd(ctx, x.p, b.workers, b.duration, attestedOnce((*client).read))
			if err != nil {
				return err
			}
			x.cpu = append(x.cpu, float64(x.s.cpu()-before)/float64(n))
			begun := x.s.cpu()
			if err := fill(ctx, x.s, x.stored, x.stored+few); err != nil {
				return err
			}
			x.new = append(x.new, float64(x.s.cpu()-begun)/few)
			x.stored += few
		}
	}
	b.most(fmt.Sprintf("a read with %d secrets against %d, server's CPU, medians of %d", b.secrets, few, rounds), median(sides[1].cpu)/median(sides[0].cpu), 1.25, "%.2f")
	b.say("the same for a new secret", fmt.Sprintf("%.2f", median(sides[1].new)/median(sides[0].new)))
	return nil
}
