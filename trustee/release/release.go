// Package release is the one gate through which a secret leaves the trustee
// (design.md sections 3 and 5).
//
// Invariants, all of them before a byte of the secret leaves: the token is this
// trustee's own, of this namespace and not expired; the secret's binding names
// the token's verified initdata digest, or a seal of a known owner that names
// it; the status is acceptable; the answer is encrypted to the TEE key that the
// evidence covered; the audit record is on disk. "Affirming" alone releases
// nothing: anybody can boot the genuine guest with initdata of his own.
//
// Trust zone: trustee.
package release

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/audit"
	"github.com/cofferproject/coffer/trustee/keyring"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/record"
	"github.com/cofferproject/coffer/trustee/release/internal/vault"
	"github.com/cofferproject/coffer/trustee/respolicy"
	"github.com/cofferproject/coffer/trustee/secretstore"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
	"github.com/cofferproject/coffer/trustee/trace"
)

// Component names the gate in denials.
const Component = "kbs"

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonTokenInvalid denial.Reason = "token-invalid"
	ReasonTokenExpired denial.Reason = "token-expired"
	ReasonNamespace    denial.Reason = "token-namespace"
	ReasonNoInitdata   denial.Reason = "initdata-unbound"
	ReasonUnbound      denial.Reason = "secret-unbound"
	ReasonNamed        denial.Reason = "initdata-names-another"
	ReasonStatus       denial.Reason = "status-unacceptable"
	ReasonAbsent       denial.Reason = "secret-absent"
	ReasonDeleted      denial.Reason = "secret-deleted"
	ReasonExpired      denial.Reason = "secret-expired"
	ReasonAudit        denial.Reason = "audit-unavailable"
	ReasonWitness      denial.Reason = "audit-unwitnessed"
)

// Tokens verifies attestation results.
type Tokens interface {
	// Verify gives the claims of a token of a namespace. One that is good but for its
	// age gives ear.ErrExpired.
	Verify(ctx context.Context, ns, token string) (*ear.Claims, error)
	// Current reports whether Verify knows the keys that the store holds; Reread learns
	// them.
	Current(tx store.Tx, ns string) (bool, error)
	Reread(ctx context.Context, ns string) error
}

// errKeysChanged says that a token was verified with keys that are not those in force.
var errKeysChanged = fmt.Errorf("%w: keys of attestation results change all the time", store.ErrUnavailable)

// Config makes a Gate.
type Config struct {
	Store store.Store
	KEK   keyring.KEK
	Audit *audit.Log
	Book  *record.Book
	// Policies are asked beside the bindings.
	Policies *respolicy.Policies
	// Tokens knows the tokens that count.
	Tokens Tokens
	Limits limits.Set
	Now    func() time.Time
	// Stores have the secrets that live outside; nil: there are none.
	Stores *secretstore.Set
	// Witnessed, if set, fails while nothing may leave because the audit log has no
	// witness.
	Witnessed func() error
}

// Gate releases secrets.
type Gate struct {
	cfg   Config
	vault *vault.Vault

	drain   sync.Once
	closing chan struct{} // closed: nobody waits any more
}

// New refuses a configuration with a part missing.
func New(c Config) (*Gate, error) {
	if c.Store == nil || c.KEK == nil || c.Audit == nil || c.Book == nil || c.Policies == nil || c.Tokens == nil || c.Now == nil {
		return nil, errors.New("release: a part of the configuration is missing")
	}
	if err := c.Limits.Validate(); err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	return &Gate{cfg: c, vault: vault.New(c.Store, c.KEK, c.Limits, c.Now), closing: make(chan struct{})}, nil
}

// PlaceOf gives the place for which a secret is encrypted that lies under a key of the
// store; false: no secret lies there.
func PlaceOf(bucket, key string) (string, bool) { return vault.PlaceOf(bucket, key) }

// List gives the metadata of the secrets.
func (g *Gate) List(ctx context.Context, ns string) ([]trusteeapi.Resource, error) {
	return g.vault.List(ctx, ns)
}

// Request asks for one secret.
type Request struct {
	Namespace string
	Resource  string // repository/type/tag
	Token     string // attestation result, compact JWT
	Peer      string
	// Version asks for that version; else After, if not 0, for a newer one than that.
	Version, After uint64
	Query          map[string]string // for resource policies
	// Plugin and Path are what resource policies see of a plugin's request; "": the
	// resource plugin, and Resource.
	Plugin string
	Path   []string
	Method string // "": GET
	// Named, if set, must be among what the guest's initdata says.
	Named *Named
	// IdentityKey, if set, is what the guest's evidence must have covered
	// (kbs.KeyBinding): who has the token alone has not that key.
	IdentityKey string
	// NeedPolicy, if set, says what only a resource policy can allow.
	NeedPolicy string
}

// Named is an entry of the data of an initdata document.
type Named struct{ Key, Value string }

// Released is one secret on its way out.
type Released struct {
	JWE     []byte // to the attested TEE key
	Version uint64 // 0: of a store that does not count

	entry audit.Entry // of what became of it
}

// Release gives the secret as a JWE to the attested TEE key. A refusal is a
// *denial.Denial with its record; ErrNotNewer says that all is well and there is
// nothing after Request.After; another error is a fault of the trustee.
func (g *Gate) Release(ctx context.Context, req Request) (*Released, error) {
	r := trusteeapi.Record{ID: record.NewID(), Kind: "release", Namespace: req.Namespace, Peer: req.Peer, Resource: req.Resource}
	inside, span := trace.Start(ctx, trace.SpanRelease)
	out, err := g.byKeysInForce(inside, req, &r)
	if errors.Is(err, ErrNotNewer) {
		span.End(nil)
		return nil, err
	}
	span.End(err)
	if d, ok := denial.As(err); ok {
		return nil, g.cfg.Book.Deny(ctx, r, d)
	}
	return out, err
}

// byKeysInForce is release with a token that keys in force have signed, from where the
// secret lives.
func (g *Gate) byKeysInForce(ctx context.Context, req Request, r *trusteeapi.Record) (out *Released, err error) {
	for range 3 {
		out, err = g.release(ctx, req, r)
		switch {
		case errors.Is(err, errKeysChanged):
			if err := g.cfg.Tokens.Reread(ctx, req.Namespace); err != nil {
				return nil, err
			}
		case !errors.Is(err, errMoved):
			return out, err
		}
	}
	return nil, err
}

// authorised is what holds of a request that may have what it asks for.
type authorised struct {
	sub    *ear.Submod
	claims *ear.Claims
	seal   string // by which the binding holds
	asked  string // resource policies that allowed it
}

// authorise checks token, binding, result and policies; read runs inside of the same
// transaction, once the binding holds. It gives errKeysChanged before anything else.
func (g *Gate) authorise(ctx context.Context, req *Request, r *trusteeapi.Record, read func(tx store.Tx) error) (*authorised, error) {
	a := new(authorised)
	var err error
	if a.sub, a.claims, err = g.token(ctx, *req, r); err != nil {
		return nil, err
	}
	var inForce *respolicy.InForce
	err = g.cfg.Store.View(ctx, func(tx store.Tx) error {
		n, err := tenant.GetNamespace(tx, req.Namespace)
		if err != nil {
			return err
		}
		switch current, err := g.cfg.Tokens.Current(tx, req.Namespace); {
		case err != nil:
			return err
		case !current:
			return errKeysChanged
		}
		// The binding comes before anything that tells whether the secret exists.
		if a.seal, err = g.bound(tx, *req, a.sub.Coffer.Initdata); err != nil {
			return err
		}
		if err := req.Named.in(a.sub); err != nil {
			return err
		}
		if err := coversKey(req.IdentityKey, a.sub); err != nil {
			return err
		}
		if err := acceptable(n, a.claims.Submods); err != nil {
			return explained(tx, err, a.claims.ID)
		}
		if inForce, err = g.cfg.Policies.In(tx, req.Namespace); err != nil {
			return err
		}
		return read(tx)
	})
	if err != nil {
		return nil, err
	}
	policies, err := inForce.Set()
	if err != nil {
		return nil, err
	}
	// Policies can only narrow what the rules above allow, and have their say before
	// anybody hears whether there is a secret.
	if a.asked, err = g.ask(ctx, policies, req, a.claims); err == nil && a.asked == "" && req.NeedPolicy != "" {
		err = &denial.Denial{
			Reason: respolicy.ReasonDenied, Component: Component, Claim: req.Resource, Measured: "no resource policy selects it",
			Expected: "one that allows " + req.NeedPolicy, Source: "resource policies of namespace " + req.Namespace,
		}
	}
	return a, err
}

// recipient gives the key that an answer is encrypted to, unless nothing may leave now.
func (g *Gate) recipient(a *authorised) (*kbs.TEEKey, string, error) {
	if g.cfg.Witnessed != nil {
		if err := g.cfg.Witnessed(); err != nil {
			return nil, "", &denial.Denial{
				Reason: ReasonWitness, Component: Component, Claim: "audit witness", Measured: err.Error(), Expected: "acknowledged checkpoints",
				Source: "--audit-witness-required",
			}
		}
	}
	return teeKey(a.sub)
}

// entry is the audit record of what leaves.
func (a *authorised) entry(req *Request, id, keyID string) audit.Entry {
	return audit.Entry{
		Kind: audit.KindRelease, Record: id, Namespace: req.Namespace, Peer: req.Peer, TEE: a.sub.Coffer.TEE, Simulated: a.sub.Coffer.Simulated,
		Status: string(a.sub.Status), Initdata: a.sub.Coffer.Initdata.String(), Token: a.claims.ID, TEEKey: keyID, Resource: req.Resource,
		Seal: a.seal, Policy: a.asked,
	}
}

// release gives errKeysChanged and errMoved before anything is released.
func (g *Gate) release(ctx context.Context, req Request, r *trusteeapi.Record) (*Released, error) {
	var meta *trusteeapi.SecretVersion
	var box []byte
	var absent error
	var outside *trusteeapi.OutsideSecret
	a, err := g.authorise(ctx, &req, r, func(tx store.Tx) (err error) {
		if outside, err = g.vault.Outside(tx, req.Namespace, req.Resource); err != nil || outside != nil {
			return err
		}
		meta, box, absent = g.vault.Sealed(tx, req.Namespace, req.Resource, vault.Want{Version: req.Version, After: req.After})
		return nil
	})
	if err != nil {
		return nil, err
	}
	if absent != nil {
		return nil, req.explain(absent)
	}
	key, keyID, err := g.recipient(a)
	if err != nil {
		return nil, err
	}
	var secret []byte
	var version uint64
	var source string
	if outside != nil {
		secret, version, source, err = g.fetch(ctx, &req, outside)
	} else {
		version = meta.Version
		secret, err = g.vault.Open(ctx, req.Namespace, req.Resource, version, box)
	}
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	if outside != nil {
		if a, err = g.again(ctx, &req, r, outside); err != nil {
			return nil, err
		}
		if key, keyID, err = g.recipient(a); err != nil {
			return nil, err
		}
	}
	e := a.entry(&req, r.ID, keyID)
	e.Version, e.Source = version, source
	jwe, err := kbs.Seal(key, secret)
	if err != nil {
		return nil, err
	}
	if err := g.cfg.Audit.Append(ctx, &e); err != nil {
		return nil, Unrecorded(Component, err)
	}
	return &Released{JWE: jwe, Version: e.Version, entry: audit.Entry{
		Record: r.ID, Namespace: req.Namespace, Peer: req.Peer, Resource: req.Resource, Version: e.Version, Source: e.Source,
	}}, nil
}

// Unrecorded is the refusal of what the audit log could not take.
func Unrecorded(component string, err error) *denial.Denial {
	return &denial.Denial{
		Reason: ReasonAudit, Component: component, Claim: "audit record", Measured: err.Error(), Expected: "a record on disk before anything happens",
		Source: "this trustee's audit log",
	}
}

// token verifies the attestation result and gives its primary submodule.
func (g *Gate) token(ctx context.Context, req Request, r *trusteeapi.Record) (*ear.Submod, *ear.Claims, error) {
	c, err := g.cfg.Tokens.Verify(ctx, req.Namespace, req.Token)
	if errors.Is(err, store.ErrUnavailable) {
		return nil, nil, err
	}
	if err != nil {
		d := &denial.Denial{
			Reason: ReasonTokenInvalid, Component: Component, Claim: "token", Measured: err.Error(), Expected: "an attestation result of this trustee for namespace " + req.Namespace,
			Source: "the namespace's keys for attestation results",
		}
		if errors.Is(err, ear.ErrExpired) {
			d.Reason, d.Expected, d.Source = ReasonTokenExpired, "one that is valid at "+g.cfg.Now().UTC().Format(time.RFC3339), "this trustee's clock"
		}
		return nil, nil, d
	}
	sub, ok := c.Submods["cpu0"]
	if !ok || sub.Coffer == nil {
		return nil, nil, &denial.Denial{Reason: ReasonTokenInvalid, Component: Component, Claim: "token", Measured: "no submodule cpu0 of this trustee", Expected: "one", Source: "this trustee's results"}
	}
	r.Attestation = c.ID
	r.TEE, r.Simulated, r.Initdata, r.Status, r.Vector = sub.Coffer.TEE, sub.Coffer.Simulated, sub.Coffer.Initdata.String(), string(sub.Status), sub.Vector.Map()
	if sub.Coffer.Namespace != req.Namespace || c.Audience != tenant.Audience(req.Namespace) {
		return nil, nil, &denial.Denial{
			Reason: ReasonNamespace, Component: Component, Claim: "token audience", Measured: sub.Coffer.Namespace,
			Expected: req.Namespace, Source: "URL of the request",
		}
	}
	return &sub, c, nil
}

// bound checks the binding and gives the seal by which it holds.
func (g *Gate) bound(tx store.Tx, req Request, d *ear.Digest) (string, error) {
	b, err := tenant.BindingOf(tx, req.Namespace, req.Resource)
	if err != nil {
		return "", err
	}
	if d == nil {
		return "", &denial.Denial{
			Reason: ReasonNoInitdata, Component: Component, Claim: "initdata digest", Measured: "none",
			Expected: tenant.Expected(tx, req.Namespace, b), Source: "binding of " + req.Resource,
		}
	}
	id, ok, why, err := tenant.Holds(tx, req.Namespace, b, d)
	if err != nil {
		return "", err
	}
	if !ok {
		expected := tenant.Expected(tx, req.Namespace, b)
		if expected == "" {
			expected = "nothing, until the secret is bound"
		}
		return "", &denial.Denial{
			Reason: ReasonUnbound, Component: Component, Claim: "initdata digest", Measured: d.String(),
			Expected: expected, Source: "binding of " + req.Resource + " in namespace " + req.Namespace, Detail: why,
		}
	}
	return id, nil
}

// teeKey takes the recipient from the verified token and from nowhere else.
func teeKey(s *ear.Submod) (*kbs.TEEKey, string, error) {
	bad := func(err error) error {
		return &denial.Denial{Reason: ReasonTokenInvalid, Component: Component, Claim: "tee-pubkey", Measured: err.Error(), Expected: "a key that answers can be encrypted to", Source: "the published protocol"}
	}
	rt, ok := s.Evidence["runtime_data_claims"].(map[string]any)
	if !ok {
		return nil, "", bad(errors.New("token has no runtime data"))
	}
	raw, err := json.Marshal(rt["tee-pubkey"])
	if err != nil {
		return nil, "", bad(err)
	}
	k, err := kbs.ParseTEEKey(raw)
	if err != nil {
		return nil, "", bad(err)
	}
	if err := k.Check(); err != nil {
		return nil, "", bad(err)
	}
	canon, err := k.MarshalJSON()
	if err != nil {
		return nil, "", bad(err)
	}
	sum := sha256.Sum256(canon)
	return k, hex.EncodeToString(sum[:]), nil
}
