package keyring

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"

	"github.com/cofferproject/coffer/trustee/store"
)

const auditKey = "audit"

// auditDoc is the key that signs checkpoints of the audit log, at rest, sealed.
type auditDoc struct {
	Key []byte `json:"key"` // PKCS #8
}

// AuditKey gives the key that signs checkpoints of the audit log and nothing else.
// It is made once; of two who make it the first one's stays.
func AuditKey(ctx context.Context, s store.Store, kek KEK) (crypto.Signer, error) {
	d := new(auditDoc)
	found, err := load(ctx, s, kek, auditKey, d)
	if err != nil {
		return nil, err
	}
	if !found {
		if _, err := newKey(&d.Key); err != nil {
			return nil, fmt.Errorf("making audit key: %w", err)
		}
		plain, err := json.Marshal(d)
		if err != nil {
			return nil, fmt.Errorf("making audit key: %w", err)
		}
		defer clear(plain)
		box, err := Encrypt(ctx, kek, bucket+"/"+auditKey, plain)
		if err != nil {
			return nil, err
		}
		err = s.Update(ctx, func(tx store.Tx) error {
			if have, err := tx.Get(bucket, auditKey); err != nil || have != nil {
				return err
			}
			return tx.Put(bucket, auditKey, box)
		})
		if err != nil {
			return nil, err
		}
		if _, err := load(ctx, s, kek, auditKey, d); err != nil {
			return nil, err
		}
	}
	k, err := parseKey(d.Key)
	if err != nil {
		return nil, fmt.Errorf("keyring: audit key: %w", err)
	}
	return k, nil
}
