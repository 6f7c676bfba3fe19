// Package migrate brings over what the existing Key Broker, Attestation and
// Reference Value Provider Services keep (their stores LocalFs, LocalJson, Redis and
// PostgreSQL; shared facts: trustee section 3.11): secrets, appraisal policies and
// reference values.
//
// Invariants: a source is read to its end before anything is written, and is not
// changed; what is there already is left alone unless the caller says otherwise;
// each entry is written whole or not at all, and an import that was cut off may be
// run again and makes the same of it; no report holds a secret; an import makes no
// binding, so that nobody gets a new secret until its owner says who may.
//
// Trust zone: trustee. The sources are the data owner's, and still bounded.
package migrate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/resource"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/trustee/httpio"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Names of the existing service's stores.
const (
	storeSecrets  = "repository"
	storePolicies = "attestation_service_policy"
	storeValues   = "reference_value"
	storeKBS      = "kbs"
	storeSessions = "kbs_protocol_session"

	storeProvisioner = "provisioner"
)

// Action is what becomes of one entry.
type Action string

// Actions.
const (
	Import  Action = "import"  // it is, or in a dry run would be, brought over
	Present Action = "present" // the same is there already
	Skip    Action = "skip"    // it has no place here
	Refuse  Action = "refuse"  // it is malformed, or another is there already
)

// Item is one entry of the source.
type Item struct {
	Store  string `json:"store"`
	Key    string `json:"key"`
	Action Action `json:"action"`
	As     string `json:"as,omitempty"` // what it is here
	Why    string `json:"why,omitempty"`

	data []byte
}

// Report says what became of every entry.
type Report struct {
	DryRun bool           `json:"dry_run"`
	Items  []Item         `json:"items"`
	Counts map[Action]int `json:"counts"`
}

// Target is where things are brought to. Every change is audited before it
// happens.
type Target interface {
	// Secrets lists the names that are there.
	Secrets(ctx context.Context) ([]string, error)
	// IsSecret reports whether the newest version of a secret is this.
	IsSecret(ctx context.Context, name string, secret []byte) (bool, error)
	PutSecret(ctx context.Context, name string, secret []byte) error
	// Policy gives the text that is registered under a name; "": none is.
	Policy(ctx context.Context, name string) (string, error)
	PutPolicy(ctx context.Context, name, text string) error
	// Bundles gives the names of registered reference values, with the SHA-256 (hex) of
	// the document of each.
	Bundles(ctx context.Context) (map[string]string, error)
	PutBundle(ctx context.Context, name string, doc []byte) error
}

// Options of Run.
type Options struct {
	DryRun bool
	// Replace takes the place of what is there already.
	Replace bool
	Now     time.Time
}

// Source gives every entry of a store of the existing services, or none and an error.
type Source func(ctx context.Context) ([]Item, error)

// Run brings a source over. Entries that are refused do not stop the others; a
// fault of the target does, and what was brought over by then stays.
func Run(ctx context.Context, from Source, t Target, o Options) (*Report, error) {
	items, err := from(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading store: %w", err)
	}
	if len(items) == 0 {
		return nil, errors.New("reading store: nothing is there")
	}
	slices.SortFunc(items, func(a, b Item) int { return cmp.Or(cmp.Compare(a.Store, b.Store), cmp.Compare(a.Key, b.Key)) })
	r := &run{ctx: ctx, target: t, Options: o, report: &Report{DryRun: o.DryRun, Counts: map[Action]int{}}}
	if err := r.all(items); err != nil {
		return nil, err
	}
	for i := range items {
		clear(items[i].data)
		r.report.Counts[items[i].Action]++
	}
	r.report.Items = items
	return r.report, nil
}

type run struct {
	Options
	ctx     context.Context
	target  Target
	report  *Report
	secrets []string
}

func (r *run) all(items []Item) error {
	var err error
	if r.secrets, err = r.target.Secrets(r.ctx); err != nil {
		return err
	}
	var values []*Item
	for i := range items {
		it := &items[i]
		if it.Action == Refuse {
			continue // it could not be read
		}
		switch it.Store {
		case storeSecrets:
			err = r.secret(it)
		case storePolicies:
			err = r.policy(it)
		case storeValues:
			values = append(values, it)
		case storeKBS:
			it.skip("resource policies have no place: a secret goes to whom its binding names (docs/trustee/migrate.md)")
		case storeSessions:
			it.skip("sessions end; clients attest anew")
		default:
			it.skip("no store that is brought over")
		}
		if err != nil {
			return err
		}
	}
	return r.values(values)
}

func (it *Item) skip(why string) { it.Action, it.Why = Skip, why }

// put makes of a target's no to this one entry a refusal; another error is a fault.
func (it *Item) put(err error) error {
	for _, no := range []error{tenant.ErrInvalid, tenant.ErrLimit, tenant.ErrConflict} {
		if errors.Is(err, no) {
			it.refuse(err.Error())
			return nil
		}
	}
	return err
}

func (it *Item) refuse(why string) { it.Action, it.Why = Refuse, why }

// secret brings over one resource.
func (r *run) secret(it *Item) error {
	u := &resource.URI{Plugin: resource.PluginResource, Path: strings.Split(it.Key, "/")}
	switch err := u.Validate(); {
	case err != nil:
		it.refuse(err.Error())
		return nil
	case len(u.Name()) > httpio.MaxName:
		it.refuse("name too long")
		return nil
	case len(it.data) > kbs.MaxResource:
		it.refuse(fmt.Sprintf("%d bytes, at most %d", len(it.data), kbs.MaxResource))
		return nil
	}
	if slices.Contains(r.secrets, u.Name()) {
		same, err := r.target.IsSecret(r.ctx, u.Name(), it.data)
		switch {
		case err != nil:
			return err
		case same:
			it.Action, it.As = Present, "secret "+u.Name()
			return nil
		case !r.Replace:
			it.refuse("another secret of this name is there already: --replace makes this one its next version")
			return nil
		}
	}
	it.Action, it.As, it.Why = Import, "secret "+u.Name(), "goes to whom its binding names: without one to nobody"
	if r.DryRun {
		return nil
	}
	return it.put(r.target.PutSecret(r.ctx, u.Name(), it.data))
}

// policy brings over one appraisal policy.
func (r *run) policy(it *Item) error {
	name, ok := strings.CutSuffix(it.Key, ".rego")
	if _, class := policy.ClassOf(name); !ok || !class {
		it.refuse("not <id>_<class>.rego, with class one of " + strings.Join(policy.Classes, ", "))
		return nil
	}
	text := string(it.data)
	if _, err := policy.Compile(name, text); err != nil {
		it.refuse(err.Error())
		return nil
	}
	have, err := r.target.Policy(r.ctx, name)
	switch {
	case err != nil:
		return err
	case have == text:
		it.Action, it.As = Present, "policy "+name
		return nil
	case have != "" && !r.Replace:
		it.refuse("another policy of this name is there already: --replace takes its place")
		return nil
	}
	it.Action, it.As = Import, "policy "+name
	if r.DryRun {
		return nil
	}
	return it.put(r.target.PutPolicy(r.ctx, name, text))
}

// valueDoc is one stored reference value.
type valueDoc struct {
	Version    string          `json:"version"`
	Name       string          `json:"name"`
	Expiration time.Time       `json:"expiration"`
	Value      json.RawMessage `json:"value"`
}

// values brings over reference values. Each has an end, which the existing service
// writes and never looks at; here a bundle ends as a whole, so there is one for
// each month, which ends with the first of its values.
func (r *run) values(items []*Item) error {
	bundles := map[string]*refvalue.Bundle{}
	members := map[string][]*Item{}
	for _, it := range items {
		d, v, err := decodeValue(it.data)
		switch {
		case err != nil:
			it.refuse(err.Error())
			continue
		case d.Name != it.Key:
			it.refuse(fmt.Sprintf("names itself %.80q", d.Name))
			continue
		case !r.Now.Before(d.Expiration):
			it.refuse("expired " + d.Expiration.Format(time.DateOnly))
			continue
		}
		month := "import-" + d.Expiration.UTC().Format("2006-01")
		b := bundles[month]
		if b == nil {
			b = &refvalue.Bundle{Version: refvalue.Version, Provenance: refvalue.Provenance{Tool: "coffer-trustee import"}, Values: map[string]any{}}
			bundles[month] = b
		}
		if end := d.Expiration.UTC().Truncate(time.Second); b.Expires.IsZero() || end.Before(b.Expires) {
			b.Expires = end
		}
		b.Values[d.Name] = v
		members[month] = append(members[month], it)
		it.Action, it.As = Import, "reference value in bundle "+month
	}
	have, err := r.target.Bundles(r.ctx)
	if err != nil {
		return err
	}
	for name, b := range bundles {
		if err := r.bundle(name, b, members[name], have[name]); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) bundle(name string, b *refvalue.Bundle, members []*Item, present string) error {
	doc, err := b.Encode()
	sum := sha256.Sum256(doc)
	why, same := "", false
	switch {
	case err != nil:
		why = err.Error()
	case present == hex.EncodeToString(sum[:]):
		same = true
	case present != "" && !r.Replace:
		why = "another bundle of this name is there already: --replace takes its place"
	}
	for _, it := range members {
		it.Why = "ends " + b.Expires.Format(time.DateOnly)
		switch {
		case why != "":
			it.refuse(why)
		case same:
			it.Action = Present
		}
	}
	if why != "" || same || r.DryRun {
		return nil
	}
	err = r.target.PutBundle(r.ctx, name, doc)
	for _, it := range members {
		if fault := it.put(err); fault != nil {
			return fault
		}
	}
	return nil
}

func decodeValue(b []byte) (*valueDoc, any, error) {
	d := new(valueDoc)
	if err := json.Unmarshal(b, d); err != nil {
		return nil, nil, fmt.Errorf("not a stored reference value: %w", err)
	}
	if d.Version != "0.1.0" || d.Expiration.IsZero() {
		return nil, nil, errors.New("not a stored reference value of version 0.1.0 with an expiration")
	}
	v, err := decodeJSON(d.Value)
	if err != nil {
		return nil, nil, err
	}
	one := &refvalue.Bundle{Version: refvalue.Version, Values: map[string]any{d.Name: v}}
	return d, v, one.Validate()
}
