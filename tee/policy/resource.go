package policy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"

	"github.com/cofferproject/coffer/api/denial"
)

// ResourceComponent names resource policies in denials.
const ResourceComponent = "resource-policy"

// Resource is one version of a resource policy, compiled: package policy, rule
// allow, which must be the boolean true (SPEC.md). It is immutable and safe for
// concurrent use.
type Resource struct {
	id, digest string
	prepared   rego.PreparedEvalQuery
}

// resourceQuery gives an empty list where allow is undefined.
const resourceQuery = `allow := [x | x := data.policy.allow]`

// CompileResource prepares a resource policy under a name. What it gives otherwise
// is a *denial.Denial.
func CompileResource(id, text string) (*Resource, error) {
	bad := func(err error) error {
		return &denial.Denial{Reason: ReasonMalformed, Component: ResourceComponent, Claim: "policy " + short(id), Detail: limited(err.Error(), 2048)}
	}
	if len(text) > MaxSize {
		return nil, bad(fmt.Errorf("%d bytes, at most %d", len(text), MaxSize))
	}
	m, err := parse(id, text)
	if err != nil {
		return nil, bad(err)
	}
	if !m.Package.Path.Equal(ast.MustParseRef("data.policy")) {
		return nil, bad(fmt.Errorf("%s, not package policy", m.Package))
	}
	rule := false
	for _, r := range m.Rules {
		rule = rule || r.Head.Ref().String() == "allow"
	}
	if !rule {
		return nil, bad(errors.New("no rule allow, so it would allow nothing"))
	}
	q, err := rego.New(
		rego.Query(resourceQuery), rego.ParsedModule(m), rego.Capabilities(capabilities), rego.StrictBuiltinErrors(true), rego.Store(requestStore{}),
	).PrepareForEval(context.Background())
	if err != nil {
		return nil, bad(err)
	}
	return &Resource{id, DigestOf(text), q}, nil
}

// ID gives the name.
func (p *Resource) ID() string { return p.id }

// Digest gives "sha256:<hex>" of the text.
func (p *Resource) Digest() string { return p.digest }

// ResourceInput is what a resource policy decides about.
type ResourceInput struct {
	Claims any               // the claims of the token: the document input
	Plugin string            // "resource", "external"
	Path   []string          // repository, type, tag; of a plugin, what follows its name
	Query  map[string]string // of the request
	Method string            // addition to what is published
	Now    time.Time
}

// Allows evaluates the policy. An undefined allow and one that is not true are
// both false; what fails or takes too long is a *denial.Denial.
func (p *Resource) Allows(ctx context.Context, in *ResourceInput) (bool, error) {
	deny := func(reason denial.Reason, err error) error {
		return &denial.Denial{Reason: reason, Component: ResourceComponent, Claim: "policy " + short(p.id) + ": evaluation", Detail: limited(err.Error(), 2048)}
	}
	v, err := toValue(in.Claims)
	if err != nil {
		return false, deny(ReasonFailed, err)
	}
	query := map[string]any{}
	for k, x := range in.Query {
		query[k] = x
	}
	path := []any{}
	for _, s := range in.Path {
		path = append(path, s)
	}
	ctx, cancel := context.WithTimeout(ctx, MaxTime)
	defer cancel()
	rs, err := p.prepared.Eval(ctx, rego.EvalParsedInput(v), rego.EvalTime(in.Now), rego.EvalTransaction(&requestData{map[string]any{
		"plugin": in.Plugin, "resource-path": path, "query": query, "method": in.Method,
	}}))
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return false, deny(ReasonTimeout, fmt.Errorf("not done after %s", MaxTime))
	case err != nil:
		return false, deny(ReasonFailed, err)
	case len(rs) != 1:
		return false, deny(ReasonFailed, fmt.Errorf("%d results", len(rs)))
	}
	l, _ := rs[0].Bindings["allow"].([]any)
	return len(l) == 1 && l[0] == true, nil
}

// requestStore is a document data that comes with each evaluation: published
// policies find the request there, and a prepared query has one store for good.
type requestStore struct {
	storage.WritesNotSupported
}

// requestData is the transaction of one evaluation.
type requestData struct{ root map[string]any }

// ID implements storage.Transaction.
func (*requestData) ID() uint64 { return 0 }

// NewTransaction implements storage.Store, for the compilation.
func (requestStore) NewTransaction(context.Context, ...storage.TransactionParams) (storage.Transaction, error) {
	return &requestData{map[string]any{}}, nil
}

// Read implements storage.Store.
func (requestStore) Read(_ context.Context, t storage.Transaction, path storage.Path) (any, error) {
	d, ok := t.(*requestData)
	if !ok {
		return nil, &storage.Error{Code: storage.InternalErr, Message: "not a transaction of this store"}
	}
	missing := &storage.Error{Code: storage.NotFoundErr, Message: path.String()}
	var x any = d.root
	for _, k := range path {
		switch at := x.(type) {
		case map[string]any:
			if x, ok = at[k]; !ok {
				return nil, missing
			}
		case []any:
			i, ok := index(k, len(at))
			if !ok {
				return nil, missing
			}
			x = at[i]
		default:
			return nil, missing
		}
	}
	return x, nil
}

// index reads the index of an array as Rego writes it.
func index(k string, n int) (int, bool) {
	for i := range n {
		if k == fmt.Sprint(i) {
			return i, true
		}
	}
	return 0, false
}

// Commit implements storage.Store.
func (requestStore) Commit(context.Context, storage.Transaction) error { return nil }

// Abort implements storage.Store.
func (requestStore) Abort(context.Context, storage.Transaction) {}

// Truncate implements storage.Store.
func (requestStore) Truncate(context.Context, storage.Transaction, storage.TransactionParams, storage.Iterator) error {
	return errReadOnly
}

// Register implements storage.Trigger; nothing ever changes here.
func (requestStore) Register(context.Context, storage.Transaction, storage.TriggerConfig) (storage.TriggerHandle, error) {
	return nil, errReadOnly
}

// ListPolicies implements storage.Policy: there are none.
func (requestStore) ListPolicies(context.Context, storage.Transaction) ([]string, error) {
	return nil, nil
}

// GetPolicy implements storage.Policy.
func (requestStore) GetPolicy(context.Context, storage.Transaction, string) ([]byte, error) {
	return nil, errReadOnly
}

// UpsertPolicy implements storage.Policy.
func (requestStore) UpsertPolicy(context.Context, storage.Transaction, string, []byte) error {
	return errReadOnly
}

// DeletePolicy implements storage.Policy.
func (requestStore) DeletePolicy(context.Context, storage.Transaction, string) error {
	return errReadOnly
}

var errReadOnly = errors.New("the request is only read")
