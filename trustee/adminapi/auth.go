package adminapi

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/seal"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/trustee/store"
)

// Component names the administration in denials.
const Component = "trustee-admin"

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonUnauthenticated denial.Reason = "admin-unauthenticated"
	ReasonForbidden       denial.Reason = "admin-forbidden"
)

// Permission is what a route asks for.
type Permission string

// Permissions.
const (
	ReadInfo        Permission = "info:read"
	ReadTenant      Permission = "tenant:read"
	WriteNamespaces Permission = "namespaces:write"
	WriteOwners     Permission = "owners:write"
	WriteSeals      Permission = "seals:write"
	WriteBindings   Permission = "bindings:write"
	WriteSecrets    Permission = "secrets:write"
	WriteTrust      Permission = "trust:write"
	WriteCollateral Permission = "collateral:write"
	ReadRecords     Permission = "records:read"
	ReadAudit       Permission = "audit:read"
	MakeBackup      Permission = "backup:make"
)

// granted lists what each role may do; a role that is not listed may do nothing.
var granted = map[trusteeapi.Role][]Permission{
	trusteeapi.RoleAdmin: {
		ReadInfo, ReadTenant, WriteNamespaces, WriteOwners, WriteSeals, WriteBindings, WriteSecrets, WriteTrust, WriteCollateral, ReadRecords, ReadAudit, MakeBackup,
	},
}

const admins = "admins"

// credential is a registered administrator's key.
type credential struct {
	PublicKey string          `json:"public_key"` // PEM
	Role      trusteeapi.Role `json:"role"`
	Created   time.Time       `json:"created"`
}

// RegisterFirstAdmin makes a key an administrator's, if there is none yet.
func RegisterFirstAdmin(ctx context.Context, s store.Store, pub crypto.PublicKey, now time.Time) (first bool, err error) {
	id, err := seal.KeyID(pub)
	if err != nil {
		return false, fmt.Errorf("admin credential: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return false, fmt.Errorf("admin credential: %w", err)
	}
	p := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	err = s.Update(ctx, func(tx store.Tx) error {
		first = true
		if err := tx.Scan(admins, "", func(string, []byte) (bool, error) { first = false; return false, nil }); err != nil || !first {
			return err
		}
		return store.PutJSON(tx, admins, id, credential{p, trusteeapi.RoleAdmin, now.UTC()})
	})
	return first, err
}

// HasAdmin reports whether there is any administrator.
func HasAdmin(ctx context.Context, s store.Store) (bool, error) {
	n := 0
	err := s.View(ctx, func(tx store.Tx) error {
		return tx.Scan(admins, "", func(string, []byte) (bool, error) { n++; return false, nil })
	})
	return n > 0, err
}

// authenticate gives the key id of whoever asks, if its role has the permission.
func (h *Handler) authenticate(r *http.Request, need Permission) (string, error) {
	raw, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return "", unauthenticated(errors.New("no bearer token"))
	}
	t, err := trusteeapi.ParseToken(raw)
	if err != nil {
		return "", unauthenticated(err)
	}
	var cred *credential
	err = h.cfg.Store.View(r.Context(), func(tx store.Tx) error {
		c, ok, err := store.GetJSON[credential](tx, admins, t.KeyID)
		if ok {
			cred = c
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if cred == nil {
		return "", unauthenticated(errors.New("no credential has this key id"))
	}
	block, _ := pem.Decode([]byte(cred.PublicKey))
	if block == nil {
		return "", errors.New("stored admin credential is not PEM")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("stored admin credential: %w", err)
	}
	now := h.cfg.Now()
	if err := t.Verify(pub, r.Method, r.URL.EscapedPath(), now); err != nil {
		return "", unauthenticated(err)
	}
	fresh, err := h.useOnce(r.Context(), t.KeyID+"/"+t.Claims.ID, now)
	if err != nil {
		return "", err
	}
	if !fresh {
		return "", unauthenticated(errors.New("token was used before"))
	}
	// The credential's role counts; the token's can only be the same.
	if t.Claims.Role != cred.Role || !slices.Contains(granted[cred.Role], need) {
		return "", &denial.Denial{
			Reason: ReasonForbidden, Component: Component, Claim: string(need), Measured: "role " + string(t.Claims.Role), Source: "roles of this trustee",
		}
	}
	return t.KeyID, nil
}

func unauthenticated(err error) error {
	return &denial.Denial{Reason: ReasonUnauthenticated, Component: Component, Claim: "admin token", Detail: err.Error()}
}

// onceOnly remembers token ids for longer than a token can live. Only ids of
// verified tokens get in, so its size is an administrator's doing.
type onceOnly struct {
	mu       sync.Mutex
	new, old map[string]bool
	turned   time.Time
}

const rememberFor = 10 * time.Minute

func newOnceOnly() *onceOnly { return &onceOnly{new: map[string]bool{}, old: map[string]bool{}} }

func (o *onceOnly) use(id string, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now.Sub(o.turned) > rememberFor {
		o.new, o.old, o.turned = map[string]bool{}, o.new, now
	}
	if o.new[id] || o.old[id] {
		return false
	}
	o.new[id] = true
	return true
}
