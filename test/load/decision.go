package main

import (
	"context"
	"fmt"
	"time"

	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/tee/snp"
	"github.com/cofferproject/coffer/tee/snp/verifier"
)

// decision measures the default policy over the claims of this run's evidence, in
// this process.
func decision(ctx context.Context, b *bench) error {
	raw, err := b.pod.attester.Evidence(ctx, make([]byte, 64), nil)
	if err != nil {
		return err
	}
	e, err := snp.Parse(raw)
	if err != nil {
		return err
	}
	p, err := policy.Default("cpu")
	if err != nil {
		return err
	}
	const n = 2000
	all := make([]*policy.References, n)
	for i := range all { // each decision the first of its references: a second would be remembered
		if all[i], err = policy.NewReferences(b.pod.values, nil); err != nil {
			return err
		}
	}
	in := &policy.Input{Evidence: map[string]any{"snp": verifier.Claims(e.Report)}, Now: time.Now()}
	decide := func(i int) error {
		in.References = all[i]
		_, err := p.Evaluate(ctx, in)
		return err
	}
	first, err := each(n, decide)
	if err != nil {
		return err
	}
	again, err := each(n, func(int) error { return decide(0) })
	if err != nil {
		return err
	}
	b.most("one decision of the default policy, CPU", first, 100, "%.0f µs")
	b.say("the same of what is remembered", fmt.Sprintf("%.0f µs", again))
	return nil
}

// each gives the CPU time of one of n, in microseconds.
func each(n int, do func(int) error) (float64, error) {
	before := own()
	for i := range n {
		if err := do(i); err != nil {
			return 0, err
		}
	}
	return float64((own()-before)/time.Nanosecond) / float64(n) / 1000, nil
}
