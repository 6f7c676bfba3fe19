// Package gcpsm fetches secrets from Google Cloud Secret Manager, written from its
// published REST API (versions.access), as a service account by its key file, or as that
// of the machine.
//
// Trust zone: trustee.
package gcpsm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cofferproject/coffer/trustee/cloud/google"
	"github.com/cofferproject/coffer/trustee/outbound"
	"github.com/cofferproject/coffer/trustee/secretstore"
)

const (
	perCall     = 4 * time.Second
	scope       = "https://www.googleapis.com/auth/cloud-platform"
	metadataURL = "http://169.254.169.254"
)

var (
	project = regexp.MustCompile(`^[a-z0-9][a-z0-9.:-]{0,62}$`)
	nameRE  = regexp.MustCompile(`^[A-Za-z0-9_-]{1,255}$`)
)

type store struct {
	project, endpoint string
	web               *outbound.Client
	tokens            *outbound.Tokens[string]
	now               func() time.Time
}

// Open takes gcp:PROJECT with the options endpoint, ca, and credentials-file (and
// token-endpoint) or metadata=gce (metadata-endpoint where that service is elsewhere).
func Open(_ context.Context, spec *secretstore.Spec) (secretstore.Store, error) {
	if !project.MatchString(spec.At) {
		return nil, fmt.Errorf("%.40q is no project", spec.At)
	}
	s := &store{project: spec.At, endpoint: "https://secretmanager.googleapis.com", now: time.Now}
	tokens, metadata := google.TokenURL, metadataURL
	for option, at := range map[string]*string{"endpoint": &s.endpoint, "token-endpoint": &tokens, "metadata-endpoint": &metadata} {
		v := spec.Take(option)
		if v == "" {
			continue
		}
		if _, err := outbound.CheckURL(v); err != nil {
			return nil, fmt.Errorf("%s: %w", option, err)
		}
		*at = strings.TrimSuffix(v, "/")
	}
	var err error
	if s.web, err = outbound.New(outbound.Options{CAFile: spec.Take("ca"), Timeout: perCall, Most: secretstore.MaxAnswer}); err != nil {
		return nil, err
	}
	file, kind := spec.Take("credentials-file"), spec.Take("metadata")
	var get func(context.Context) (string, time.Duration, error)
	switch {
	case file != "" && kind == "":
		get = func(ctx context.Context) (string, time.Duration, error) {
			form, err := google.Grant(file, scope, tokens, s.now())
			if err != nil {
				return "", 0, err
			}
			return s.token(ctx, http.MethodPost, tokens, form, "Content-Type", "application/x-www-form-urlencoded")
		}
	case file == "" && kind == "gce":
		get = func(ctx context.Context) (string, time.Duration, error) {
			return s.token(ctx, http.MethodGet, metadata+"/computeMetadata/v1/instance/service-accounts/default/token", "", "Metadata-Flavor", "Google")
		}
	default:
		return nil, errors.New("credentials-file or metadata=gce is needed")
	}
	s.tokens = outbound.NewTokens(func() time.Time { return s.now() }, get)
	return s, spec.Rest()
}

func (s *store) token(ctx context.Context, method, to, form, header, value string) (string, time.Duration, error) {
	a, err := secretstore.Ask(ctx, s.web, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, method, to, strings.NewReader(form))
		if err == nil {
			req.Header.Set(header, value)
		}
		return req, err
	})
	if err != nil {
		return "", 0, err
	}
	defer clear(a.Body)
	if a.Status != http.StatusOK {
		var doc struct {
			Error string `json:"error"`
		}
		_ = json.Unmarshal(a.Body, &doc)
		return "", 0, fmt.Errorf("token: status %d %s", a.Status, outbound.Plain(doc.Error))
	}
	var t google.Token
	if err := json.Unmarshal(a.Body, &t); err != nil {
		return "", 0, errors.New("token: the answer is not the service's")
	}
	return t.Token, time.Duration(min(max(t.Seconds, 0), 24*3600)) * time.Second, t.Check()
}

// Numbered implements secretstore.Store.
func (s *store) Numbered() bool { return true }

// Check implements secretstore.Store.
func (s *store) Check(w secretstore.Want) error {
	if !nameRE.MatchString(w.Name) {
		return errors.New("a secret's name is of letters, digits, _ and -")
	}
	if n, err := strconv.ParseUint(w.Version, 10, 63); w.Version != "" && (err != nil || n == 0 || strconv.FormatUint(n, 10) != w.Version) {
		return errors.New("a version of this store is a number from 1 on")
	}
	return nil
}

// Fetch implements secretstore.Store.
func (s *store) Fetch(ctx context.Context, w secretstore.Want) (*secretstore.Secret, error) {
	token, err := s.tokens.Get(ctx)
	if err != nil {
		return nil, secretstore.Refused(err)
	}
	version := w.Version
	if version == "" {
		version = "latest"
	}
	to := s.endpoint + "/v1/projects/" + s.project + "/secrets/" + w.Name + "/versions/" + version + ":access"
	a, err := secretstore.Ask(ctx, s.web, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, to, nil)
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
	return decode(a, w)
}

func decode(a *outbound.Answer, w secretstore.Want) (*secretstore.Secret, error) {
	if a.Status != http.StatusOK {
		return nil, refusal(a)
	}
	var doc struct {
		Name    string `json:"name"`
		Payload struct {
			Data []byte `json:"data"`
			Sum  string `json:"dataCrc32c"`
		} `json:"payload"`
	}
	err := json.Unmarshal(a.Body, &doc)
	data := doc.Payload.Data
	_, version, found := strings.Cut(doc.Name, "/secrets/"+w.Name+"/versions/") // the project is its number there
	number, perr := strconv.ParseUint(version, 10, 63)
	if err != nil || !found || perr != nil || number == 0 || w.Version != "" && w.Version != version {
		clear(data)
		return nil, fmt.Errorf("%w: it is not the service's, or of another secret", secretstore.ErrMalformed)
	}
	if doc.Payload.Sum != strconv.FormatUint(uint64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))), 10) {
		clear(data)
		return nil, fmt.Errorf("%w: its checksum does not fit: something was damaged on its way", secretstore.ErrMalformed)
	}
	if data, err = secretstore.Part(data, w.Field); err != nil {
		return nil, err
	}
	return &secretstore.Secret{Value: data, Version: version, Number: number}, nil
}

// refusal makes the error of what the service says.
func refusal(a *outbound.Answer) error {
	var doc struct {
		Error struct {
			Status  string `json:"status"`
			Message string `json:"message"`
		} `json:"error"`
	}
	_ = json.Unmarshal(a.Body, &doc)
	is := secretstore.ErrRefused
	switch doc.Error.Status {
	case "NOT_FOUND":
		is = secretstore.ErrAbsent
	case "FAILED_PRECONDITION": // a version that is disabled or destroyed
		is = secretstore.ErrDeleted
	}
	return fmt.Errorf("%w: status %d %.80s %s", is, a.Status, outbound.Plain(doc.Error.Status), outbound.Plain(doc.Error.Message))
}
