package keyring

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"

	"github.com/cofferproject/coffer/trustee/store"
)

const (
	auditKey  = "audit"
	bearerKey = "admin-token"
)

// keyDoc is a key with one use, at rest, sealed.
type keyDoc struct {
	Key []byte `json:"key"` // PKCS #8
}

// AuditKey gives the key that signs checkpoints of the audit log and nothing else.
// It is made once; of two who make it the first one's stays.
func AuditKey(ctx context.Context, s store.Store, kek KEK) (crypto.Signer, error) {
	return ownKey(ctx, s, kek, auditKey)
}

// BearerKey gives the key that signs administrators' bearer tokens and nothing else.
func BearerKey(ctx context.Context, s store.Store, kek KEK) (crypto.Signer, error) {
	return ownKey(ctx, s, kek, bearerKey)
}

func ownKey(ctx context.Context, s store.Store, kek KEK, name string) (crypto.Signer, error) {
	d := new(keyDoc)
	found, err := load(ctx, s, kek, name, d)
	if err != nil {
		return nil, err
	}
	if !found {
		if _, err := newKey(&d.Key); err != nil {
			return nil, fmt.Errorf("making key %s: %w", name, err)
		}
		plain, err := json.Marshal(d)
		if err != nil {
			return nil, fmt.Errorf("making key %s: %w", name, err)
		}
		defer clear(plain)
		box, err := Encrypt(ctx, kek, bucket+"/"+name, plain)
		if err != nil {
			return nil, err
		}
		err = s.Update(ctx, func(tx store.Tx) error {
			if have, err := tx.Get(bucket, name); err != nil || have != nil {
				return err
			}
			return tx.Put(bucket, name, box)
		})
		if err != nil {
			return nil, err
		}
		if _, err := load(ctx, s, kek, name, d); err != nil {
			return nil, err
		}
	}
	k, err := parseKey(d.Key)
	if err != nil {
		return nil, fmt.Errorf("keyring: key %s: %w", name, err)
	}
	return k, nil
}
