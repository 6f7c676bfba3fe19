// Package azurekv fetches secrets from Azure Key Vault, written from its published REST
// API (get secret, 7.4), as an application or with the identity of the machine.
//
// Trust zone: trustee.
package azurekv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/cofferproject/coffer/trustee/cloud/azure"
	"github.com/cofferproject/coffer/trustee/outbound"
	"github.com/cofferproject/coffer/trustee/secretstore"
)

const (
	perCall    = 4 * time.Second
	apiVersion = "7.4"
)

var (
	nameRE    = regexp.MustCompile(`^[A-Za-z0-9-]{1,127}$`)
	versionRE = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

type store struct {
	base   string // of the vault
	web    *outbound.Client
	tokens *outbound.Tokens[string]
	now    func() time.Time
}

// Open takes azure:https://NAME.vault.azure.net with the options ca, and tenant-id,
// client-id and client-secret-file (login-endpoint of another cloud), or metadata=imds
// (client-id of a user-assigned identity, metadata-endpoint where that service is
// elsewhere). resource is what tokens are for, where that is not the public cloud's.
func Open(_ context.Context, spec *secretstore.Spec) (secretstore.Store, error) {
	u, err := outbound.CheckURL(spec.At)
	if err != nil {
		return nil, err
	}
	if strings.Trim(u.Path, "/") != "" {
		return nil, errors.New("write https://NAME.vault.azure.net")
	}
	s := &store{base: u.Scheme + "://" + u.Host, now: time.Now}
	if s.web, err = outbound.New(outbound.Options{CAFile: spec.Take("ca"), Timeout: perCall, Most: secretstore.MaxAnswer}); err != nil {
		return nil, err
	}
	from := &azure.Source{
		Tenant: spec.Take("tenant-id"), Client: spec.Take("client-id"), SecretFile: spec.Take("client-secret-file"), Login: spec.Take("login-endpoint"), Metadata: spec.Take("metadata-endpoint"),
	}
	switch m := spec.Take("metadata"); m {
	case "":
	case "imds":
		from.Machine = true
	default:
		return nil, fmt.Errorf("metadata %.20q is not imds", m)
	}
	if err := from.Check(); err != nil {
		return nil, err
	}
	resource := spec.Take("resource")
	if resource == "" {
		resource = "https://vault.azure.net"
	} else if _, err := outbound.CheckURL(resource); err != nil {
		return nil, fmt.Errorf("resource: %w", err)
	}
	s.tokens = outbound.NewTokens(func() time.Time { return s.now() }, func(ctx context.Context) (string, time.Duration, error) { return from.Token(ctx, s.web, resource) })
	return s, spec.Rest()
}

// Numbered implements secretstore.Store: versions are named by hexadecimal ids.
func (s *store) Numbered() bool { return false }

// Check implements secretstore.Store.
func (s *store) Check(w secretstore.Want) error {
	if !nameRE.MatchString(w.Name) {
		return errors.New("a secret's name is of letters, digits and -")
	}
	if w.Version != "" && !versionRE.MatchString(w.Version) {
		return errors.New("a version of this store is 32 hexadecimal digits")
	}
	return nil
}

// Fetch implements secretstore.Store.
func (s *store) Fetch(ctx context.Context, w secretstore.Want) (*secretstore.Secret, error) {
	token, err := s.tokens.Get(ctx)
	if err != nil {
		return nil, secretstore.Refused(err)
	}
	to := s.base + "/secrets/" + w.Name
	if w.Version != "" {
		to += "/" + w.Version
	}
	a, err := secretstore.Ask(ctx, s.web, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, to+"?api-version="+apiVersion, nil)
		if err == nil {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		return req, err
	})
	if err != nil {
		return nil, err
	}
	if a.Status == http.StatusUnauthorized {
		s.tokens.Drop()
	}
	defer clear(a.Body)
	return decode(a, w, s.now())
}

func decode(a *outbound.Answer, w secretstore.Want, now time.Time) (*secretstore.Secret, error) {
	if a.Status != http.StatusOK {
		return nil, refusal(a)
	}
	var doc struct {
		Value      *string `json:"value"`
		ID         string  `json:"id"`
		Attributes struct {
			Enabled   *bool `json:"enabled"`
			Expires   int64 `json:"exp"`
			NotBefore int64 `json:"nbf"`
		} `json:"attributes"`
	}
	err := json.Unmarshal(a.Body, &doc)
	_, version, found := strings.Cut(doc.ID, "/secrets/"+w.Name+"/")
	if err != nil || doc.Value == nil || !found || !versionRE.MatchString(version) || w.Version != "" && w.Version != version {
		return nil, fmt.Errorf("%w: it is not the service's, or of another secret", secretstore.ErrMalformed)
	}
	// The service says these and gives the secret all the same.
	t := doc.Attributes
	if t.Enabled != nil && !*t.Enabled || t.Expires != 0 && now.Unix() >= t.Expires || now.Unix() < t.NotBefore {
		return nil, fmt.Errorf("%w: it is disabled, or not valid now", secretstore.ErrDeleted)
	}
	value, err := secretstore.Part([]byte(*doc.Value), w.Field)
	if err != nil {
		return nil, err
	}
	return &secretstore.Secret{Value: value, Version: version}, nil
}

// refusal makes the error of what the service says.
func refusal(a *outbound.Answer) error {
	var doc struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Inner   struct {
				Code string `json:"code"`
			} `json:"innererror"`
		} `json:"error"`
	}
	_ = json.Unmarshal(a.Body, &doc)
	is := secretstore.ErrRefused
	switch {
	case doc.Error.Code == "SecretNotFound":
		is = secretstore.ErrAbsent
	case doc.Error.Inner.Code == "SecretDisabled":
		is = secretstore.ErrDeleted
	}
	return fmt.Errorf("%w: status %d %.80s %s", is, a.Status, outbound.Plain(doc.Error.Code), outbound.Plain(doc.Error.Message))
}
