package secretstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/cofferproject/coffer/trustee/outbound"
)

// Ask is one exchange with a store, or with who gives credentials for it. The errors are
// this package's; every answer says something that is for the caller to read.
func Ask(ctx context.Context, web *outbound.Client, make func(context.Context) (*http.Request, error)) (*outbound.Answer, error) {
	a, err := web.Do(ctx, make)
	switch {
	case errors.Is(err, outbound.ErrTooMuch):
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	case errors.Is(err, outbound.ErrAway):
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	case err != nil:
		return nil, err
	case outbound.Later(a.Status):
		clear(a.Body)
		return nil, fmt.Errorf("%w: status %d", ErrAway, a.Status)
	}
	return a, nil
}

// Refused makes the error of credentials that cannot be had. One that is of this package
// stays as it is.
func Refused(err error) error {
	for _, e := range []error{ErrAway, ErrMalformed, ErrRefused} {
		if errors.Is(err, e) {
			return err
		}
	}
	if errors.Is(err, outbound.ErrAway) {
		return fmt.Errorf("%w: credentials: %w", ErrAway, err)
	}
	return fmt.Errorf("%w: credentials: %w", ErrRefused, err)
}

// Part gives a field of a secret that is a JSON object, or all of the secret where field
// is "". The field is text; another kind would have several spellings.
func Part(secret []byte, field string) ([]byte, error) {
	if field == "" {
		return secret, nil
	}
	defer clear(secret)
	var all map[string]json.RawMessage
	if err := json.Unmarshal(secret, &all); err != nil {
		return nil, fmt.Errorf("%w: the secret is no JSON object, of which a field could be given", ErrMalformed)
	}
	raw, ok := all[field]
	defer clear(raw)
	if !ok {
		return nil, fmt.Errorf("%w: it has no field %.80q", ErrAbsent, field)
	}
	var s string
	if !bytes.HasPrefix(raw, []byte(`"`)) || json.Unmarshal(raw, &s) != nil {
		return nil, fmt.Errorf("%w: the field is no text", ErrMalformed)
	}
	return []byte(s), nil
}
