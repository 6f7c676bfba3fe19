package release

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/store"
)

// acceptable is the status rule for every device of a result: affirming; in a
// simulated namespace affirming but for the hardware claim, which is at exactly
// its cap.
func acceptable(n *trusteeapi.Namespace, all map[string]ear.Submod) error {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		if err := acceptableDevice(n, name, &s); err != nil {
			return err
		}
	}
	return nil
}

func acceptableDevice(n *trusteeapi.Namespace, name string, s *ear.Submod) error {
	deny := func(claim, measured, expected string) error {
		if name != "cpu0" {
			claim = name + " " + claim
		}
		return &denial.Denial{Reason: ReasonStatus, Component: Component, Claim: claim, Measured: measured, Expected: expected, Source: "release rule of namespace " + n.Name}
	}
	if s.Coffer == nil {
		return deny("ear.coffer", "absent", "as this trustee writes it")
	}
	if s.Coffer.Simulated != n.Simulated {
		return deny("simulated", fmt.Sprint(s.Coffer.Simulated), fmt.Sprint(n.Simulated))
	}
	v, debug := s.Vector, false
	if s.Coffer.Debug && n.InsecureAllowDebug && ear.TierOf(v.Configuration) == ear.Warning {
		v.Configuration, debug = ear.Recognized, true
	}
	if n.Simulated {
		if v.Hardware != ear.UnsafeHardware {
			return deny("hardware", fmt.Sprint(v.Hardware), fmt.Sprint(ear.UnsafeHardware))
		}
		v.Hardware = 0 // the others must affirm without it
	}
	if s.Coffer.Debug && !debug {
		return deny("debug guest", "true", "false")
	}
	if t := v.Status(); t != ear.Affirming {
		return deny("ear.status", string(s.Status), string(ear.Affirming))
	}
	return nil
}

// explained puts into a refusal of the status what the policy objected to, from
// the record of the attestation, if that is still there.
func explained(tx store.Tx, err error, attestation string) error {
	d, ok := denial.As(err)
	if !ok {
		return err
	}
	r, rerr := record.In(tx, attestation)
	if rerr != nil {
		return err // the refusal stands; its record has gone
	}
	var found []string
	out := *d
	for _, a := range r.Appraisals {
		for _, f := range a.Findings {
			if f.Field == "" {
				continue
			}
			if len(found) == 0 {
				out.Claim = fmt.Sprintf("%s %s: %s", a.Submod, f.Claim, f.Field)
				out.Measured, out.Expected, out.Source = f.Measured, f.Expected, f.Source
			}
			found = append(found, fmt.Sprintf("%s %s: %s", a.Submod, f.Claim, f.Field))
		}
	}
	if len(found) == 0 {
		out.Detail = "attestation " + attestation
		return &out
	}
	out.Detail = fmt.Sprintf("status %s: %s; attestation %s", d.Measured, strings.Join(found, "; "), attestation)
	return &out
}
