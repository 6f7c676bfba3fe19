package appraisal

import (
	"context"
	"time"

	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/tee/verify"
)

// judge lets the policy judge one device. Where the namespace knows values of
// debug images, they are left out at first; if the policy comes to another verdict
// with them, it is they that explain the guest, and it is a debug guest whatever
// its evidence says: a launch digest cannot.
func (p *prepared) judge(ctx context.Context, pol *policy.Policy, d *device, now time.Time) (*policy.Appraised, error) {
	v, err := pol.Appraise(ctx, d.result, d.runtime, p.trust.Values, now)
	if err != nil || p.trust.DebugValues == nil {
		return v, err
	}
	with, err := pol.Appraise(ctx, d.result, d.runtime, p.trust.DebugValues, now)
	if err != nil || with.Vector == v.Vector {
		return v, err
	}
	debug := *d.result
	debug.Debug = true
	debug.Checks = append(debug.Checks[:len(debug.Checks):len(debug.Checks)], verify.Check{
		What: "debug guest", Found: "only reference values of a debug image explain it", Source: "namespace " + p.trust.Namespace.Name,
	})
	d.result = &debug
	return pol.Appraise(ctx, d.result, d.runtime, p.trust.DebugValues, now)
}
