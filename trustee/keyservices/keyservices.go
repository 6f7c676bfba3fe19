// Package keyservices opens the key service that a flag names.
//
// Trust zone: trustee.
package keyservices

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/trustee/keyservice"
	"github.com/cofferproject/coffer/trustee/keyservice/awskms"
	"github.com/cofferproject/coffer/trustee/keyservice/azurekms"
	"github.com/cofferproject/coffer/trustee/keyservice/gcpkms"
	"github.com/cofferproject/coffer/trustee/keyservice/pkcs11"
	"github.com/cofferproject/coffer/trustee/keyservice/transit"
)

// schemes are the kinds of services by the word before the colon.
var schemes = map[string]func(ctx context.Context, spec string) (keyservice.Service, error){
	"aws-kms":       awskms.Open,
	"azure-kms":     azurekms.Open,
	"gcp-kms":       gcpkms.Open,
	"pkcs11":        pkcs11.Open,
	"vault-transit": transit.Open,
}

// Open opens SCHEME:REST. It asks the service nothing yet.
func Open(ctx context.Context, spec string) (keyservice.Service, error) {
	scheme, rest, _ := strings.Cut(spec, ":")
	open := schemes[scheme]
	if open == nil {
		return nil, fmt.Errorf("%.40q is none of %s", scheme, strings.Join(slices.Sorted(maps.Keys(schemes)), ", "))
	}
	s, err := open(ctx, rest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", scheme, err)
	}
	return s, nil
}
