// Package secretstores opens the secret stores that the operator names.
//
// Trust zone: trustee.
package secretstores

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/trustee/secretstore"
	"github.com/cofferproject/coffer/trustee/secretstore/aliyunkms"
	"github.com/cofferproject/coffer/trustee/secretstore/awssm"
	"github.com/cofferproject/coffer/trustee/secretstore/azurekv"
	"github.com/cofferproject/coffer/trustee/secretstore/gcpsm"
	"github.com/cofferproject/coffer/trustee/secretstore/vaultkv"
)

// kinds are the stores by the word before the colon.
var kinds = map[string]func(context.Context, *secretstore.Spec) (secretstore.Store, error){
	"aliyun": aliyunkms.Open,
	"aws":    awssm.Open,
	"azure":  azurekv.Open,
	"gcp":    gcpsm.Open,
	"vault":  vaultkv.Open,
}

// Open opens one store. It asks it nothing yet.
func Open(ctx context.Context, spec *secretstore.Spec) (secretstore.Store, error) {
	open := kinds[spec.Kind]
	if open == nil {
		return nil, fmt.Errorf("%.40q is none of %s", spec.Kind, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
	}
	if spec.Token != "" && spec.Kind != "vault" {
		return nil, fmt.Errorf("%s takes its credentials from files", spec.Kind)
	}
	s, err := open(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", spec.Kind, err)
	}
	return s, nil
}
