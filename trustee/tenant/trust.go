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
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/verifiers"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
)

const (
	refvalues = "refvalues"
	refdocs   = "refdocs"
	ekroots   = "ekroots"
	enrolled  = "enrolled-aks"
	rootKinds = "ekroot-kinds" // over all namespaces: SPKI, or akMark and an attestation key's name, to "simulated" or "production"
	akMark    = "ak."
)

// Component names this package in denials.
const Component = "namespaces"

// ReasonDebugValues says that values of a debug image were to be registered in a
// production namespace that allows no debug guests. docs/denials.md explains it.
const ReasonDebugValues denial.Reason = "debug-reference-values"

var teeRE = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

var bundleRE = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$`)

// RegisterReferenceValues takes a document under a name and keeps who registered
// it; another document of that name is replaced. A signed bundle must have a good
// signature of a key that the namespace knows, and counts only as long as it
// knows it.
func (r *Registry) RegisterReferenceValues(ctx context.Context, ns, name, actor string, doc []byte) (*trusteeapi.ReferenceValues, error) {
	if !bundleRE.MatchString(name) {
		return nil, invalid(fmt.Errorf("reference values: name %.80q has characters that no name has", name))
	}
	d, err := parseDocument(doc)
	if err != nil {
		return nil, invalid(err)
	}
	b, now := d.bundle, r.now()
	if now.Before(d.notBefore) {
		return nil, invalid(fmt.Errorf("reference values: count from %s on only", d.notBefore.Format(time.RFC3339)))
	}
	if b.Expired(now) {
		return nil, invalid(fmt.Errorf("reference values: expired %s", b.Expires.Format(time.RFC3339)))
	}
	prov, err := json.Marshal(b.Provenance)
	if err != nil {
		return nil, invalid(err)
	}
	sum := sha256.Sum256(doc)
	made := trusteeapi.ReferenceValues{
		ID: hex.EncodeToString(sum[:]), Name: name, Format: d.format, Sets: len(b.Sets), Values: len(b.Values), Provenance: prov, Actor: actor, Registered: now.UTC(), Expires: b.Expires,
	}
	var info *trusteeapi.ReferenceValues
	err = r.update(ctx, ns, func(tx store.Tx, n *trusteeapi.Namespace) error {
		info = new(made) // a run before this one may have found another
		if b.Debug && !n.Simulated && !n.InsecureAllowDebug {
			return invalid(&denial.Denial{
				Reason: ReasonDebugValues, Component: Component, Claim: "reference values " + name, Measured: "of a debug image",
				Expected: "of a release image, or a namespace made with insecure_allow_debug", Source: "namespace " + ns,
			})
		}
		have, ok, err := store.GetJSON[trusteeapi.ReferenceValues](tx, Bucket(ns, refvalues), name)
		if err != nil {
			return err
		}
		if d.check != nil {
			if info.SignedBy, err = d.check(tx, n, now); err != nil {
				return err
			}
		}
		if ok && have.ID == info.ID {
			info = have
			return nil
		}
		if !ok {
			if err := r.room(tx, limits.ReferenceValues, ns, refvalues); err != nil {
				return err
			}
		}
		if err := store.PutJSON(tx, Bucket(ns, refvalues), name, info); err != nil {
			return err
		}
		if err := tx.Put(Bucket(ns, refdocs), name, doc); err != nil {
			return err
		}
		// What contradicts another bundle is refused now, not on a request.
		t := &Trust{}
		if err := t.loadReferences(tx, ns, now); err != nil {
			return invalid(err)
		}
		return bump(tx, ns)
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// parseBundle takes a document, signed or not.
func parseBundle(doc []byte) (*refvalue.Bundle, *refvalue.Signed, error) {
	if !refvalue.IsSigned(doc) {
		b, err := refvalue.Parse(doc)
		return b, nil, err
	}
	s, err := refvalue.ParseSigned(string(doc))
	if err != nil {
		return nil, nil, err
	}
	return s.Bundle, s, nil
}

// verifyBundle checks a signed bundle with the key that it names, if the
// namespace knows it.
func verifyBundle(tx store.Tx, ns string, s *refvalue.Signed) error {
	pub, err := ownerKey(tx, ns, s.KeyID)
	if err != nil {
		return fmt.Errorf("reference values: %w", err)
	}
	if err := s.Verify(pub); err != nil {
		return invalid(err)
	}
	return nil
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

// AddRoot registers a certificate: in a production namespace of TPM endorsement
// keys, a root or an intermediate, which anchors nothing; in a simulated one the
// root of a machine that plays hardware, for one TEE or ("") all. Other TEEs of
// production have their vendors' roots, which are built in.
func (r *Registry) AddRoot(ctx context.Context, ns, tee, certPEM string, intermediate bool) (*trusteeapi.EKRoot, error) {
	c, err := parseCert(certPEM)
	if err != nil {
		return nil, invalid(err)
	}
	tee = verifiers.Canonical(tee) // verifiers ask by this name
	if tee != "" && !teeRE.MatchString(tee) {
		return nil, invalid(fmt.Errorf("root: %.40q is no TEE's wire name", tee))
	}
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	made := trusteeapi.EKRoot{
		TEE: tee, Subject: c.Subject.String(), Intermediate: intermediate, Registered: r.now().UTC(),
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})),
	}
	var root *trusteeapi.EKRoot
	err = r.update(ctx, ns, func(tx store.Tx, n *trusteeapi.Namespace) error {
		root = new(made) // a run before this one may have found another
		if n.Simulated && intermediate {
			return invalid(errors.New("a simulated namespace takes roots only"))
		}
		if !n.Simulated && tee != "" && tee != "tpm" {
			return invalid(fmt.Errorf("root: production takes the vendor's roots of %s, which are built in", tee))
		}
		root.ID = hex.EncodeToString(sum[:])
		if err := r.markKind(tx, root.ID, n.Simulated); err != nil {
			return err
		}
		if n.Simulated {
			err = keepSimulated(tx, root.ID, c)
		} else {
			err = keepGenuine(tx, c)
		}
		if err != nil {
			return err
		}
		if n.Simulated && tee != "" {
			// One machine's root may serve several TEEs (SNP, and SNP below
			// Azure's vTPM): one registration takes nothing from another.
			root.ID += "." + tee
		}
		switch known, ok, err := store.GetJSON[trusteeapi.EKRoot](tx, Bucket(ns, ekroots), root.ID); {
		case err != nil:
			return err
		case ok && known.TEE == tee && known.Intermediate == intermediate && known.Certificate == root.Certificate:
			// Every run on a machine registers its root: nothing has changed, so
			// nothing is prepared anew.
			root = known
			return nil
		case !ok:
			if err := r.room(tx, limits.Roots, ns, ekroots); err != nil {
				return err
			}
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

// markKind notes that a key, named by its SPKI, anchors simulated hardware or
// genuine, and refuses what was the other kind anywhere. The mark stays when the
// key is deleted: what was simulated once is never genuine later.
func (r *Registry) markKind(tx store.Tx, id string, simulated bool) error {
	kind := kindOf(simulated)
	have, err := tx.Get(rootKinds, id)
	if err != nil {
		return err
	}
	if have != nil && string(have) != kind {
		return fmt.Errorf("key %s is registered as %s, so it cannot be %s: %w", id, have, kind, ErrConflict)
	}
	if have == nil {
		if err := Room(tx, r.limits, limits.RootKeys, "", rootKinds); err != nil {
			return err
		}
	}
	return tx.Put(rootKinds, id, []byte(kind))
}

// kindOf spells the kind of a namespace as marks have it.
func kindOf(simulated bool) string {
	if simulated {
		return "simulated"
	}
	return "production"
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
	k := &trusteeapi.EnrolledAK{Name: name, Note: note, Kind: kindOf(false), Registered: r.now().UTC()}
	err = r.update(ctx, ns, func(tx store.Tx, n *trusteeapi.Namespace) error {
		if n.Simulated {
			return invalid(errors.New("a simulated namespace enrolls no attestation keys"))
		}
		if err := r.markKind(tx, akMark+name, false); err != nil {
			return err
		}
		if err := r.roomFor(tx, limits.EnrolledAKs, ns, enrolled, name); err != nil {
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
