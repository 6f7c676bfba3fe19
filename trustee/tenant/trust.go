package tenant

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/store"
)

const (
	refvalues = "refvalues"
	refdocs   = "refdocs"
	ekroots   = "ekroots"
	enrolled  = "enrolled-aks"
	rootKinds = "ekroot-kinds" // over all namespaces: SPKI to "simulated" or "production"
)

var bundleRE = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$`)

// RegisterReferenceValues takes a document under a name and keeps who registered
// it; another document of that name is replaced.
func (r *Registry) RegisterReferenceValues(ctx context.Context, ns, name, actor string, doc []byte) (*trusteeapi.ReferenceValues, error) {
	if !bundleRE.MatchString(name) {
		return nil, invalid(fmt.Errorf("reference values: name %.80q has characters that no name has", name))
	}
	b, err := refvalue.Parse(doc)
	if err != nil {
		return nil, invalid(err)
	}
	prov, err := json.Marshal(b.Provenance)
	if err != nil {
		return nil, invalid(err)
	}
	sum := sha256.Sum256(doc)
	info := &trusteeapi.ReferenceValues{
		ID: hex.EncodeToString(sum[:]), Name: name, Sets: len(b.Sets), Provenance: prov, Actor: actor, Registered: r.now().UTC(),
	}
	err = r.update(ctx, ns, func(tx store.Tx, _ *trusteeapi.Namespace) error {
		have, ok, err := store.GetJSON[trusteeapi.ReferenceValues](tx, Bucket(ns, refvalues), name)
		if err != nil {
			return err
		}
		if ok && have.ID == info.ID {
			info = have
			return nil
		}
		if !ok {
			if err := room(tx, Bucket(ns, refvalues), maxBundles); err != nil {
				return err
			}
		}
		if err := store.PutJSON(tx, Bucket(ns, refvalues), name, info); err != nil {
			return err
		}
		if err := tx.Put(Bucket(ns, refdocs), name, doc); err != nil {
			return err
		}
		return bump(tx, ns)
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// ReferenceValues lists the registered bundles.
func (r *Registry) ReferenceValues(ctx context.Context, ns string) ([]trusteeapi.ReferenceValues, error) {
	return list[trusteeapi.ReferenceValues](ctx, r, ns, refvalues)
}

// DeleteReferenceValues removes a bundle.
func (r *Registry) DeleteReferenceValues(ctx context.Context, ns, name string) error {
	return r.update(ctx, ns, func(tx store.Tx, _ *trusteeapi.Namespace) error {
		v, err := tx.Get(Bucket(ns, refvalues), name)
		if err != nil {
			return err
		}
		if v == nil {
			return fmt.Errorf("reference values %.128q: %w", name, ErrNotFound)
		}
		if err := errors.Join(tx.Delete(Bucket(ns, refvalues), name), tx.Delete(Bucket(ns, refdocs), name)); err != nil {
			return err
		}
		return bump(tx, ns)
	})
}

// AddEKRoot registers a certificate of TPM endorsement keys: a root, or an
// intermediate, which anchors nothing.
func (r *Registry) AddEKRoot(ctx context.Context, ns, certPEM string, intermediate bool) (*trusteeapi.EKRoot, error) {
	c, err := parseCert(certPEM)
	if err != nil {
		return nil, invalid(err)
	}
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	root := &trusteeapi.EKRoot{
		ID: hex.EncodeToString(sum[:]), Subject: c.Subject.String(), Intermediate: intermediate, Registered: r.now().UTC(),
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})),
	}
	err = r.update(ctx, ns, func(tx store.Tx, n *trusteeapi.Namespace) error {
		if n.Simulated && intermediate {
			return invalid(errors.New("a simulated namespace takes roots only"))
		}
		kind := "production"
		if n.Simulated {
			kind = "simulated"
		}
		have, err := tx.Get(rootKinds, root.ID)
		if err != nil {
			return err
		}
		if have != nil && string(have) != kind {
			return fmt.Errorf("key %s is registered as %s, so it cannot be %s: %w", root.ID, have, kind, ErrConflict)
		}
		if err := room(tx, Bucket(ns, ekroots), maxRoots); err != nil {
			return err
		}
		// The mark stays when the root is deleted: what was simulated once is
		// never genuine later.
		if err := tx.Put(rootKinds, root.ID, []byte(kind)); err != nil {
			return err
		}
		if err := store.PutJSON(tx, Bucket(ns, ekroots), root.ID, root); err != nil {
			return err
		}
		return bump(tx, ns)
	})
	if err != nil {
		return nil, err
	}
	return root, nil
}

func parseCert(p string) (*x509.Certificate, error) {
	if len(p) > 16<<10 {
		return nil, errors.New("certificate: too long")
	}
	block, rest := pem.Decode([]byte(p))
	if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
		return nil, errors.New("certificate: not exactly one CERTIFICATE in PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if !c.IsCA || !c.BasicConstraintsValid {
		return nil, errors.New("certificate: not a CA's")
	}
	return c, nil
}

// EKRoots lists the certificates.
func (r *Registry) EKRoots(ctx context.Context, ns string) ([]trusteeapi.EKRoot, error) {
	return list[trusteeapi.EKRoot](ctx, r, ns, ekroots)
}

// DeleteEKRoot removes a certificate.
func (r *Registry) DeleteEKRoot(ctx context.Context, ns, id string) error {
	return r.remove(ctx, ns, ekroots, id, true)
}

// EnrollAK accepts an attestation key by its TPM name, without an endorsement
// key; a simulated namespace takes none.
func (r *Registry) EnrollAK(ctx context.Context, ns, name, note string) (*trusteeapi.EnrolledAK, error) {
	// A name is the hash algorithm's number and the hash of the public area.
	b, err := hex.DecodeString(name)
	if err != nil || len(b) != 34 || name != strings.ToLower(name) || !strings.HasPrefix(name, "000b") {
		return nil, invalid(fmt.Errorf("attestation key: %.80q is not a TPM name with SHA-256: 000b and 64 hex digits", name))
	}
	if len(note) > 256 {
		return nil, invalid(errors.New("attestation key: note is longer than 256 bytes"))
	}
	k := &trusteeapi.EnrolledAK{Name: name, Note: note, Registered: r.now().UTC()}
	err = r.update(ctx, ns, func(tx store.Tx, n *trusteeapi.Namespace) error {
		if n.Simulated {
			return invalid(errors.New("a simulated namespace enrolls no attestation keys"))
		}
		if err := room(tx, Bucket(ns, enrolled), maxAKs); err != nil {
			return err
		}
		if err := store.PutJSON(tx, Bucket(ns, enrolled), name, k); err != nil {
			return err
		}
		return bump(tx, ns)
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// EnrolledAKs lists the enrolled attestation keys.
func (r *Registry) EnrolledAKs(ctx context.Context, ns string) ([]trusteeapi.EnrolledAK, error) {
	return list[trusteeapi.EnrolledAK](ctx, r, ns, enrolled)
}

// DeleteAK withdraws an enrolled attestation key.
func (r *Registry) DeleteAK(ctx context.Context, ns, name string) error {
	return r.remove(ctx, ns, enrolled, name, true)
}

// Trust is what a namespace's evidence is appraised with, at one generation.
type Trust struct {
	Namespace       trusteeapi.Namespace
	Generation      uint64
	EKRoots         []*x509.Certificate
	EKIntermediates []*x509.Certificate
	EnrolledAKs     []string
	References      []*refvalue.Bundle
}

// Generation gives a namespace with the generation of its trust, cheaply.
func (r *Registry) Generation(ctx context.Context, ns string) (n *trusteeapi.Namespace, g uint64, err error) {
	err = r.store.View(ctx, func(tx store.Tx) error {
		if n, err = GetNamespace(tx, ns); err != nil {
			return err
		}
		g, err = generation(tx, ns)
		return err
	})
	return n, g, err
}

// Trust loads what evidence is appraised with.
func (r *Registry) Trust(ctx context.Context, ns string) (*Trust, error) {
	t := new(Trust)
	err := r.store.View(ctx, func(tx store.Tx) error {
		n, err := GetNamespace(tx, ns)
		if err != nil {
			return err
		}
		t.Namespace = *n
		if t.Generation, err = generation(tx, ns); err != nil {
			return err
		}
		roots, err := store.List[trusteeapi.EKRoot](tx, Bucket(ns, ekroots))
		if err != nil {
			return err
		}
		for _, e := range roots {
			c, err := parseCert(e.Certificate)
			if err != nil {
				return err
			}
			if e.Intermediate {
				t.EKIntermediates = append(t.EKIntermediates, c)
			} else {
				t.EKRoots = append(t.EKRoots, c)
			}
		}
		aks, err := store.List[trusteeapi.EnrolledAK](tx, Bucket(ns, enrolled))
		if err != nil {
			return err
		}
		for _, k := range aks {
			t.EnrolledAKs = append(t.EnrolledAKs, k.Name)
		}
		return tx.Scan(Bucket(ns, refdocs), "", func(name string, doc []byte) (bool, error) {
			b, err := refvalue.Parse(doc)
			if err != nil {
				return false, fmt.Errorf("reference values %s: %w", name, err)
			}
			t.References = append(t.References, b)
			return true, nil
		})
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}
