package tenant

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/tee/verifiers"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
)

const (
	policies   = "policies"
	anchors    = "anchors"
	anchordocs = "anchor-docs"
	maxAnchor  = 1 << 20
)

// SetPolicy takes an appraisal policy, if it compiles; it replaces one of that
// name. Names end in the class of devices that they are for.
func (r *Registry) SetPolicy(ctx context.Context, ns, name, actor, text string) (*trusteeapi.Policy, error) {
	if _, ok := policy.ClassOf(name); !ok || !bundleRE.MatchString(name) {
		return nil, invalid(fmt.Errorf("policy: name %.80q is not <id>_<class>, with class one of %s", name, strings.Join(policy.Classes, ", ")))
	}
	c, err := policy.Compile(name, text)
	if err != nil {
		return nil, invalid(err)
	}
	made := trusteeapi.Policy{Name: name, Digest: c.Digest(), Text: text, Actor: actor, Registered: r.now().UTC()}
	var p *trusteeapi.Policy
	err = r.update(ctx, ns, func(tx store.Tx, _ *trusteeapi.Namespace) error {
		p = new(made) // a run before this one may have found another
		have, ok, err := store.GetJSON[trusteeapi.Policy](tx, Bucket(ns, policies), name)
		if err != nil {
			return err
		}
		if ok && have.Digest == p.Digest {
			p = have
			return nil
		}
		if !ok {
			if err := r.room(tx, limits.Policies, ns, policies); err != nil {
				return err
			}
		}
		if err := keepVersion(tx, ns, have, p); err != nil {
			return err
		}
		if err := store.PutJSON(tx, Bucket(ns, policies), name, p); err != nil {
			return err
		}
		return bump(tx, ns)
	})
	if err != nil {
		return nil, err
	}
	out := *p
	out.Text = ""
	return &out, nil
}

// Policies lists the namespace's policies, without their text, and the embedded
// ones that are in force for want of others.
func (r *Registry) Policies(ctx context.Context, ns string) ([]trusteeapi.Policy, error) {
	l, err := list[trusteeapi.Policy](ctx, r, ns, policies)
	if err != nil {
		return nil, err
	}
	for i := range l {
		l[i].Text = ""
	}
	for _, class := range policy.Classes {
		name := policy.Name(policy.DefaultID, class)
		if slices.ContainsFunc(l, func(p trusteeapi.Policy) bool { return p.Name == name }) {
			continue
		}
		p, err := policy.Default(class)
		if err != nil {
			return nil, err
		}
		l = append(l, trusteeapi.Policy{Name: name, Digest: p.Digest(), Embedded: true})
	}
	return l, nil
}

// Policy gives one policy with its text: the namespace's, or else the embedded.
func (r *Registry) Policy(ctx context.Context, ns, name string) (out *trusteeapi.Policy, err error) {
	err = r.store.View(ctx, func(tx store.Tx) error {
		if _, err := GetNamespace(tx, ns); err != nil {
			return err
		}
		p, ok, err := store.GetJSON[trusteeapi.Policy](tx, Bucket(ns, policies), name)
		if ok {
			out = p
		}
		return err
	})
	if err != nil || out != nil {
		return out, err
	}
	if class, ok := policy.ClassOf(name); ok && name == policy.Name(policy.DefaultID, class) {
		p, err := policy.Default(class)
		if err != nil {
			return nil, err
		}
		text, _ := policy.DefaultText(class)
		return &trusteeapi.Policy{Name: name, Digest: p.Digest(), Text: text, Embedded: true}, nil
	}
	return nil, fmt.Errorf("policy %.80q: %w", name, ErrNotFound)
}

// DeletePolicy removes a policy; the embedded one takes its place, if there is one.
func (r *Registry) DeletePolicy(ctx context.Context, ns, name string) error {
	return r.remove(ctx, ns, policies, name, true)
}

// SetAnchor takes a document that a TEE's production verifier needs, if the
// verifier can read it.
func (r *Registry) SetAnchor(ctx context.Context, ns, tee, name, actor string, doc []byte) (*trusteeapi.Anchor, error) {
	if _, ok := verifiers.Anchors(tee)[name]; !ok {
		return nil, invalid(fmt.Errorf("anchor: the verifier of %.40q reads no document %.80q", tee, name))
	}
	if len(doc) == 0 || len(doc) > maxAnchor {
		return nil, invalid(fmt.Errorf("anchor: %d bytes, at least 1 and at most %d", len(doc), maxAnchor))
	}
	if err := verifiers.CheckAnchor(tee, name, doc); err != nil {
		return nil, invalid(err)
	}
	keys, err := verifiers.AnchorKeys(tee, name, doc)
	if err != nil {
		return nil, invalid(err)
	}
	certs, err := verifiers.AnchorCertificates(tee, name, doc)
	if err != nil {
		return nil, invalid(err)
	}
	var ids []string
	for _, k := range keys {
		spki, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return nil, invalid(fmt.Errorf("anchor: %w", err))
		}
		id := sha256.Sum256(spki)
		ids = append(ids, hex.EncodeToString(id[:]))
	}
	sum := sha256.Sum256(doc)
	a := &trusteeapi.Anchor{TEE: tee, Name: name, SHA256: hex.EncodeToString(sum[:]), Size: len(doc), Actor: actor, Registered: r.now().UTC()}
	err = r.update(ctx, ns, func(tx store.Tx, n *trusteeapi.Namespace) error {
		if n.Simulated {
			return invalid(errors.New("a simulated namespace takes roots of simulated hardware only"))
		}
		for _, id := range ids {
			if err := r.markKind(tx, id, false); err != nil {
				return err
			}
		}
		for _, c := range certs {
			if err := keepGenuine(tx, c); err != nil {
				return err
			}
		}
		if err := r.roomFor(tx, limits.Anchors, ns, anchors, tee+"/"+name); err != nil {
			return err
		}
		if err := store.PutJSON(tx, Bucket(ns, anchors), tee+"/"+name, a); err != nil {
			return err
		}
		if err := tx.Put(Bucket(ns, anchordocs), tee+"/"+name, doc); err != nil {
			return err
		}
		return bump(tx, ns)
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Anchors lists the documents.
func (r *Registry) Anchors(ctx context.Context, ns string) ([]trusteeapi.Anchor, error) {
	return list[trusteeapi.Anchor](ctx, r, ns, anchors)
}

// DeleteAnchor removes a document.
func (r *Registry) DeleteAnchor(ctx context.Context, ns, tee, name string) error {
	key := tee + "/" + name
	return r.update(ctx, ns, func(tx store.Tx, _ *trusteeapi.Namespace) error {
		v, err := tx.Get(Bucket(ns, anchors), key)
		if err != nil {
			return err
		}
		if v == nil {
			return fmt.Errorf("anchor %.128q: %w", key, ErrNotFound)
		}
		if err := errors.Join(tx.Delete(Bucket(ns, anchors), key), tx.Delete(Bucket(ns, anchordocs), key)); err != nil {
			return err
		}
		return bump(tx, ns)
	})
}
