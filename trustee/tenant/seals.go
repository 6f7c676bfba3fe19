package tenant

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/seal"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
)

const (
	owners = "owners"
	seals  = "seals"
)

// AddOwner registers a key whose seals the namespace accepts.
func (r *Registry) AddOwner(ctx context.Context, ns, name, publicPEM string) (*trusteeapi.OwnerKey, error) {
	pub, err := parsePublic(publicPEM)
	if err != nil {
		return nil, invalid(err)
	}
	id, err := seal.KeyID(pub)
	if err != nil {
		return nil, invalid(err)
	}
	if len(name) > 256 {
		return nil, invalid(errors.New("owner's name is longer than 256 bytes"))
	}
	made := trusteeapi.OwnerKey{ID: id, Name: name, PublicKey: publicPEM, Created: r.now().UTC()}
	var k *trusteeapi.OwnerKey
	err = r.update(ctx, ns, func(tx store.Tx, _ *trusteeapi.Namespace) error {
		k = new(made) // a run before this one may have found another
		have, ok, err := store.GetJSON[trusteeapi.OwnerKey](tx, Bucket(ns, owners), id)
		if err != nil {
			return err
		}
		if ok {
			k = have
			return nil
		}
		if err := r.room(tx, limits.Owners, ns, owners); err != nil {
			return err
		}
		if err := store.PutJSON(tx, Bucket(ns, owners), id, k); err != nil {
			return err
		}
		// What the key signed before it was withdrawn counts again.
		if err := (&Trust{}).loadReferences(tx, ns, r.now()); err != nil {
			return invalid(err)
		}
		return bump(tx, ns)
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// Owners lists the owners' keys.
func (r *Registry) Owners(ctx context.Context, ns string) ([]trusteeapi.OwnerKey, error) {
	return list[trusteeapi.OwnerKey](ctx, r, ns, owners)
}

// DeleteOwner removes a key.
func (r *Registry) DeleteOwner(ctx context.Context, ns, id string) error {
	return r.remove(ctx, ns, owners, id, true) // its signed reference values cease to count
}

func parsePublic(p string) (crypto.PublicKey, error) {
	if len(p) > 8<<10 {
		return nil, errors.New("public key: too long")
	}
	block, rest := pem.Decode([]byte(p))
	if block == nil || block.Type != "PUBLIC KEY" || len(rest) > 0 {
		return nil, errors.New("public key: not exactly one PUBLIC KEY in PEM")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return k, nil
}

// RegisterSeal takes a seal with a good signature of a registered key.
func (r *Registry) RegisterSeal(ctx context.Context, ns, jws string) (*trusteeapi.SealInfo, error) {
	s, err := seal.Parse(jws)
	if err != nil {
		return nil, invalid(err)
	}
	p := s.Statement.Pod
	info := &trusteeapi.SealInfo{
		ID: s.ID, KeyID: s.KeyID, Pod: p.Namespace + "/" + p.Name, Initdata: s.Statement.Initdata,
		Policy: s.Statement.Policy, Registered: r.now().UTC(), JWS: s.Raw,
	}
	err = r.update(ctx, ns, func(tx store.Tx, _ *trusteeapi.Namespace) error {
		if err := verifySeal(tx, ns, s); err != nil {
			return err
		}
		if err := r.roomFor(tx, limits.Seals, ns, seals, s.ID); err != nil {
			return err
		}
		// The same statement signed anew replaces the old signature.
		return store.PutJSON(tx, Bucket(ns, seals), s.ID, info)
	})
	if err != nil {
		return nil, err
	}
	out := *info
	out.JWS = ""
	return &out, nil
}

// verifySeal checks a seal with the key that it names, if the namespace knows it.
func verifySeal(tx store.Tx, ns string, s *seal.Seal) error {
	pub, err := ownerKey(tx, ns, s.KeyID)
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	if err := s.Verify(pub); err != nil {
		return invalid(err)
	}
	return nil
}

// ownerKey gives a registered owner's key.
func ownerKey(tx store.Tx, ns, id string) (crypto.PublicKey, error) {
	k, ok, err := store.GetJSON[trusteeapi.OwnerKey](tx, Bucket(ns, owners), id)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: signed with key %s, which is no owner's of namespace %s", ErrInvalid, id, ns)
	}
	return parsePublic(k.PublicKey)
}

// Seals lists the registered seals without their signatures.
func (r *Registry) Seals(ctx context.Context, ns string) ([]trusteeapi.SealInfo, error) {
	l, err := list[trusteeapi.SealInfo](ctx, r, ns, seals)
	for i := range l {
		l[i].JWS = ""
	}
	return l, err
}

// Seal gives one registered seal.
func (r *Registry) Seal(ctx context.Context, ns, id string) (out *trusteeapi.SealInfo, err error) {
	err = r.store.View(ctx, func(tx store.Tx) error {
		s, ok, err := store.GetJSON[trusteeapi.SealInfo](tx, Bucket(ns, seals), id)
		if err == nil && !ok {
			err = fmt.Errorf("seal %.80q: %w", id, ErrNotFound)
		}
		out = s
		return err
	})
	return out, err
}

// DeleteSeal removes a seal.
func (r *Registry) DeleteSeal(ctx context.Context, ns, id string) error {
	return r.remove(ctx, ns, seals, id, false)
}
