package keyring

import (
	"context"
	"errors"

	"github.com/cofferproject/coffer/trustee/store"
)

// Authority is the certificate authority of a plugin: a certificate and its key, in the
// plugin's own forms.
type Authority struct {
	Cert []byte `json:"cert"`
	Key  []byte `json:"key"`
}

// ErrNoAuthority says that there is none of that name.
var ErrNoAuthority = errors.New("keyring: no such authority")

// PluginAuthority gives the authority of a name. One that is not there is made by mint;
// of two who make it the first one's stays. Without mint it is ErrNoAuthority.
func PluginAuthority(ctx context.Context, s store.Store, kek KEK, name string, mint func() (*Authority, error)) (*Authority, error) {
	name = "authority/" + name
	d := new(Authority)
	if found, err := load(ctx, s, kek, name, d); err != nil || found {
		return d, err
	}
	if mint == nil {
		return nil, ErrNoAuthority
	}
	made, err := mint()
	if err != nil {
		return nil, err
	}
	if err := save(ctx, s, kek, name, made, false); err != nil {
		return nil, err
	}
	clear(made.Key)
	if found, err := load(ctx, s, kek, name, d); err != nil || !found {
		return nil, errors.Join(err, ErrNoAuthority)
	}
	return d, nil
}
