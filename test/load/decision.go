package main

import (
	"context"
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
	refs, err := policy.NewReferences(b.pod.values, nil)
	if err != nil {
		return err
	}
	in := &policy.Input{Evidence: map[string]any{"snp": verifier.Claims(e.Report)}, References: refs, Now: time.Now()}
	const n = 2000
	before := own()
	for range n {
		if _, err := p.Evaluate(ctx, in); err != nil {
			return err
		}
	}
	b.most("one decision of the default policy, CPU", float64((own()-before)/n/time.Nanosecond)/1000, 100, "%.0f µs")
	return nil
}
