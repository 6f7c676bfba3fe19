// Package rejudge asks what a policy would say of attestations that are recorded:
// the trial before a policy is set, and the look back after one was changed.
//
// Invariants: nothing is changed and nothing is released; the evidence is what the
// record kept of it, verified when it came, with the reference values of now; the
// caps of simulated hardware and debug guests hold here as they do in an appraisal.
//
// Trust zone: trustee.
package rejudge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/resource"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Limits of one test.
const (
	defaultLimit = 20
	maxLimit     = 100
	maxTime      = 20 * time.Second
)

// Unknown is the verdict about a record that is not kept any more.
const Unknown = "unknown"

// Config is what a test reads.
type Config struct {
	Registry *tenant.Registry
	Book     *record.Book
	Now      func() time.Time
}

// Run tests a policy. A policy that cannot be compiled is a tenant.ErrInvalid.
func Run(ctx context.Context, c Config, ns string, t *trusteeapi.PolicyTest) ([]trusteeapi.PolicyVerdict, error) {
	judge, err := c.judge(ctx, ns, t)
	if err != nil {
		return nil, err
	}
	records, err := c.records(ctx, ns, t)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	out := []trusteeapi.PolicyVerdict{}
	for _, r := range records {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, fmt.Errorf("%w: the policy was not done with %d records after %s", tenant.ErrInvalid, len(records), maxTime)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if r.Kind == "" {
			out = append(out, trusteeapi.PolicyVerdict{Record: r.ID, After: Unknown, Error: record.ErrNotFound.Error()})
			continue
		}
		out = append(out, judge(ctx, r)...)
	}
	return out, nil
}

type judge func(context.Context, *trusteeapi.Record) []trusteeapi.PolicyVerdict

func (c Config) judge(ctx context.Context, ns string, t *trusteeapi.PolicyTest) (judge, error) {
	invalid := func(err error) (judge, error) { return nil, fmt.Errorf("%w: %w", tenant.ErrInvalid, err) }
	switch t.Kind {
	case trusteeapi.TestAttestation:
		class, ok := policy.ClassOf(t.Name)
		if !ok || t.Resource != "" || t.Method != "" {
			return invalid(errors.New("an attestation policy is named <id>_<class> and is asked about no resource"))
		}
		p, err := policy.Compile(t.Name, t.Text)
		if err != nil {
			return invalid(err)
		}
		trust, err := c.Registry.Trust(ctx, ns, c.Now())
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, r *trusteeapi.Record) []trusteeapi.PolicyVerdict {
			return attestation(ctx, p, class, trust.Values, r)
		}, nil
	case trusteeapi.TestResource:
		u, err := resource.Parse("kbs:///" + t.Resource)
		if err != nil {
			return invalid(err)
		}
		p, err := policy.CompileResource(t.Name, t.Text)
		if err != nil {
			return invalid(err)
		}
		in := policy.ResourceInput{Plugin: u.Plugin, Path: u.Path, Method: t.Method}
		if in.Method == "" {
			in.Method = trusteeapi.MethodGet
		}
		return func(ctx context.Context, r *trusteeapi.Record) []trusteeapi.PolicyVerdict {
			return []trusteeapi.PolicyVerdict{access(ctx, p, in, r)}
		}, nil
	}
	return invalid(fmt.Errorf("kind %.40q is neither %s nor %s", t.Kind, trusteeapi.TestAttestation, trusteeapi.TestResource))
}

// records gives the granted attestations that are asked for.
func (c Config) records(ctx context.Context, ns string, t *trusteeapi.PolicyTest) ([]*trusteeapi.Record, error) {
	if len(t.Records) > maxLimit || t.Limit < 0 || t.Limit > maxLimit {
		return nil, fmt.Errorf("%w: at most %d records at once", tenant.ErrInvalid, maxLimit)
	}
	if len(t.Records) == 0 {
		limit := t.Limit
		if limit == 0 {
			limit = defaultLimit
		}
		l, err := c.Book.List(ctx, ns, record.Filter{Kind: "attest", Outcome: trusteeapi.OutcomeGranted, Limit: limit})
		if err != nil {
			return nil, err
		}
		out := []*trusteeapi.Record{}
		for i := range l {
			out = append(out, &l[i])
		}
		return out, nil
	}
	out := []*trusteeapi.Record{}
	for _, id := range t.Records {
		r, err := c.Book.Get(ctx, id)
		if errors.Is(err, record.ErrNotFound) {
			out = append(out, &trusteeapi.Record{ID: id, Namespace: ns}) // says so in its place
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("record %.40q: %w", id, err)
		}
		if r.Namespace != ns || r.Outcome != trusteeapi.OutcomeGranted || len(r.Appraisals) == 0 {
			return nil, fmt.Errorf("%w: record %.40q is no granted attestation of namespace %s", tenant.ErrInvalid, id, ns)
		}
		out = append(out, r)
	}
	return out, nil
}

// evidence gives what a record has kept of a device's evidence, nil if nothing.
func evidence(r *trusteeapi.Record, submod string) map[string]any {
	for _, k := range []string{"evidence " + submod, "evidence"} {
		if e, ok := r.Claims[k].(map[string]any); ok {
			return e
		}
	}
	return nil
}

// incomplete reports whether a token's claim was replaced by its digest.
func incomplete(e map[string]any) bool {
	for _, group := range e {
		m, ok := group.(map[string]any)
		if !ok {
			continue
		}
		for _, x := range m {
			if d, ok := x.(map[string]any); ok && len(d) == 1 && d["sha256"] != nil {
				return true
			}
		}
	}
	return false
}

func attestation(ctx context.Context, p *policy.Policy, class string, refs *policy.References, r *trusteeapi.Record) []trusteeapi.PolicyVerdict {
	var out []trusteeapi.PolicyVerdict
	for _, a := range r.Appraisals {
		if strings.TrimRight(a.Submod, "0123456789") != class {
			continue
		}
		v := trusteeapi.PolicyVerdict{Record: r.ID, Time: r.Time, Submod: a.Submod, TEE: a.TEE, Before: a.Status}
		e := evidence(r, a.Submod)
		v.Incomplete = incomplete(e)
		err := errors.New("the record has kept no evidence")
		if e != nil {
			err = verdict(ctx, p, &policy.Input{Evidence: e, References: refs, Now: r.Time}, &a, &v)
		}
		if err != nil {
			v.After, v.Error = "denied", err.Error()
		}
		out = append(out, v)
	}
	return out
}

func verdict(ctx context.Context, p *policy.Policy, in *policy.Input, a *trusteeapi.Appraisal, v *trusteeapi.PolicyVerdict) error {
	said, err := p.Evaluate(ctx, in)
	if err != nil {
		return err
	}
	v.After = string(policy.Capped(said.Vector, a.Debug, a.Simulated).Status())
	if said.Vector.Status() == ear.Affirming {
		return nil
	}
	found, err := p.Explain(ctx, in)
	for _, f := range found {
		v.Findings = append(v.Findings, trusteeapi.Finding(f))
	}
	return err
}

// access asks a resource policy about a request of the TEE that a record is of.
func access(ctx context.Context, p *policy.Resource, in policy.ResourceInput, r *trusteeapi.Record) trusteeapi.PolicyVerdict {
	v := trusteeapi.PolicyVerdict{Record: r.ID, Time: r.Time, TEE: r.TEE, Before: r.Status, After: "denied"}
	c, err := claims(r)
	if err != nil {
		v.Error = err.Error()
		return v
	}
	for _, a := range r.Appraisals {
		v.Incomplete = v.Incomplete || incomplete(evidence(r, a.Submod))
	}
	in.Claims, in.Now = c, r.Time
	ok, err := p.Allows(ctx, &in)
	if d, is := denial.As(err); is {
		v.Error = d.Error()
	} else if err != nil {
		v.Error = err.Error()
	}
	if ok {
		v.After = "allowed"
	}
	return v
}

// claims makes the token's claims again of what the record has.
func claims(r *trusteeapi.Record) (map[string]any, error) {
	c := ear.Claims{Profile: ear.Profile, IssuedAt: r.Time.Unix(), Expires: r.Time.Unix() + 300, Submods: map[string]ear.Submod{}, ID: r.ID, Audience: tenant.Audience(r.Namespace)}
	var initdata *ear.Digest
	if alg, hex, ok := strings.Cut(r.Initdata, ":"); ok {
		initdata = &ear.Digest{Algorithm: alg, Hex: hex}
	}
	for i, a := range r.Appraisals {
		e := evidence(r, a.Submod)
		if e == nil || a.Vector == nil {
			return nil, errors.New("the record has kept no evidence, or is from before results were recorded whole")
		}
		s := ear.Submod{Evidence: e, Coffer: &ear.Additions{
			TEE: a.TEE, Simulated: a.Simulated, Debug: a.Debug, Unproven: slices.Clone(a.Unproven), Policy: a.Digest, Namespace: r.Namespace,
		}}
		s.PolicyID, _, _ = strings.Cut(a.Policy, "_"+strings.TrimRight(a.Submod, "0123456789"))
		if i == 0 {
			s.Coffer.Initdata = initdata
		}
		raw, err := json.Marshal(a.Vector)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, &s.Vector); err != nil {
			return nil, fmt.Errorf("recorded vector: %w", err)
		}
		s.Status = s.Vector.Status()
		c.Submods[a.Submod] = s
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	err = json.Unmarshal(raw, &out)
	return out, err
}
