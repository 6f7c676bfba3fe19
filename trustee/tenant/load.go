package tenant

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/tee/verifiers"
	"github.com/cofferproject/coffer/trustee/store"
)

// Trust is what a namespace's evidence is appraised with, at one generation.
type Trust struct {
	Namespace  trusteeapi.Namespace
	Generation uint64
	// Until is when a bundle expires; zero: none does. Then it is loaded anew.
	Until time.Time
	// EKRoots, EKIntermediates and EnrolledAKs are production's.
	EKRoots         []*x509.Certificate
	EKIntermediates []*x509.Certificate
	EnrolledAKs     []string
	// References explain TPM event logs; Values are what policies query.
	References []*refvalue.Bundle
	Values     *policy.References
	// DebugValues are Values and those of debug images; nil: there are none of
	// these. What only they explain is a debug guest.
	DebugValues *policy.References
	// Launches are the bundles that say what launch they were computed for.
	Launches []Launch
	Policies map[string]string            // name to text
	Anchors  map[string]map[string][]byte // TEE, name

	simulated []root
}

// Launch is a bundle that says what launch it was computed for.
type Launch struct {
	trusteeapi.Reference
	Size int // bytes of the reference's JSON
}

type root struct {
	tee  string
	cert *x509.Certificate
}

// SimulatedRoots gives the roots of simulated hardware for one TEE: none in a
// production namespace.
func (t *Trust) SimulatedRoots(tee string) []*x509.Certificate {
	var out []*x509.Certificate
	for _, r := range t.simulated {
		if r.tee == "" || r.tee == tee {
			out = append(out, r.cert)
		}
	}
	return out
}

// Generation gives the generation of a namespace's trust, cheaply.
func (r *Registry) Generation(ctx context.Context, ns string) (g uint64, err error) {
	err = r.store.View(ctx, func(tx store.Tx) error {
		if err := exists(tx, ns); err != nil {
			return err
		}
		g, err = generation(tx, ns)
		return err
	})
	return g, err
}

// Trust loads what evidence is appraised with at a time.
func (r *Registry) Trust(ctx context.Context, ns string, now time.Time) (*Trust, error) {
	t := &Trust{Policies: map[string]string{}, Anchors: map[string]map[string][]byte{}}
	err := r.store.View(ctx, func(tx store.Tx) error {
		n, err := GetNamespace(tx, ns)
		if err != nil {
			return err
		}
		t.Namespace = *n
		if t.Generation, err = generation(tx, ns); err != nil {
			return err
		}
		if err := t.loadRoots(tx, ns); err != nil {
			return err
		}
		aks, err := store.List[trusteeapi.EnrolledAK](tx, Bucket(ns, enrolled))
		if err != nil {
			return err
		}
		for _, k := range aks {
			// What carries the mark of the other kind came here past EnrollAK and does
			// not count. Keys from before there was a mark could only be production's.
			if n.Simulated || k.Kind != "" && k.Kind != kindOf(false) {
				continue
			}
			t.EnrolledAKs = append(t.EnrolledAKs, k.Name)
		}
		if err := t.loadReferences(tx, ns, now); err != nil {
			return err
		}
		pols, err := store.List[trusteeapi.Policy](tx, Bucket(ns, policies))
		if err != nil {
			return err
		}
		for _, p := range pols {
			t.Policies[p.Name] = p.Text
		}
		return tx.Scan(Bucket(ns, anchordocs), "", func(key string, doc []byte) (bool, error) {
			tee, name, _ := strings.Cut(key, "/")
			if t.Anchors[tee] == nil {
				t.Anchors[tee] = map[string][]byte{}
			}
			t.Anchors[tee][name] = append([]byte{}, doc...)
			return true, nil
		})
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Trust) loadRoots(tx store.Tx, ns string) error {
	roots, err := store.List[trusteeapi.EKRoot](tx, Bucket(ns, ekroots))
	if err != nil {
		return err
	}
	for _, e := range roots {
		c, err := parseCert(e.Certificate)
		if err != nil {
			return err
		}
		switch {
		case t.Namespace.Simulated:
			t.simulated = append(t.simulated, root{verifiers.Canonical(e.TEE), c})
		case e.Intermediate:
			t.EKIntermediates = append(t.EKIntermediates, c)
		default:
			t.EKRoots = append(t.EKRoots, c)
		}
	}
	return nil
}

// loadReferences takes the bundles that count: not expired, and if signed, with
// a key that is an owner's still.
func (t *Trust) loadReferences(tx store.Tx, ns string, now time.Time) error {
	source := map[string]string{}
	n, err := GetNamespace(tx, ns)
	if err != nil {
		return err
	}
	err = tx.Scan(Bucket(ns, refdocs), "", func(name string, doc []byte) (bool, error) {
		d, err := parseDocument(doc)
		if err != nil {
			return false, fmt.Errorf("reference values %s: %w", name, err)
		}
		b := d.bundle
		if b.Expired(now) || now.Before(d.notBefore) {
			return true, nil
		}
		signer := ""
		if d.check != nil {
			switch signer, err = d.check(tx, n, now); {
			case errors.Is(err, ErrInvalid):
				return true, nil
			case err != nil:
				return false, err
			}
		}
		if !b.Expires.IsZero() && (t.Until.IsZero() || b.Expires.Before(t.Until)) {
			t.Until = b.Expires
		}
		for v := range b.Values {
			if source[v] != "" {
				source[v] += ", "
			}
			source[v] += "bundle " + name
			if b.Provenance.Tool != "" {
				source[v] += " (" + b.Provenance.Tool + ")"
			}
		}
		t.References = append(t.References, b)
		if b.Provenance.Launch != nil {
			l := trusteeapi.Reference{Bundle: name, Launch: b.Provenance.Launch, Values: b.Values}
			l.SignedBy = signer
			raw, err := json.Marshal(l)
			if err != nil {
				return false, fmt.Errorf("reference values %s: %w", name, err)
			}
			t.Launches = append(t.Launches, Launch{l, len(raw)})
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	var release []*refvalue.Bundle
	for _, b := range t.References {
		if !b.Debug {
			release = append(release, b)
		}
	}
	if t.Values, err = merged(release, source); err != nil || len(release) == len(t.References) {
		return err
	}
	t.DebugValues, err = merged(t.References, source)
	return err
}

func merged(bundles []*refvalue.Bundle, source map[string]string) (*policy.References, error) {
	values, err := refvalue.Merge(bundles...)
	if err != nil {
		return nil, err
	}
	return policy.NewReferences(values, source)
}
