// Package awssm fetches secrets from AWS Secrets Manager, written from its published JSON
// API (GetSecretValue), with an access key from a file or the role of the machine.
//
// Trust zone: trustee.
package awssm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/cofferproject/coffer/trustee/cloud/aws"
	"github.com/cofferproject/coffer/trustee/outbound"
	"github.com/cofferproject/coffer/trustee/secretstore"
)

const perCall = 4 * time.Second

var (
	region  = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]$`)
	nameRE  = regexp.MustCompile(`^[A-Za-z0-9/_+=.@-]{1,512}$`)
	arnRE   = regexp.MustCompile(`^arn:aws[a-z-]*:secretsmanager:[a-z0-9-]{1,32}:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]{1,400}$`)
	version = regexp.MustCompile(`^[A-Za-z0-9-]{32,64}$`)
)

type store struct {
	region, endpoint string
	web              *outbound.Client
	credentials      func(context.Context) (*aws.Credentials, error)
	now              func() time.Time
}

// Open takes aws:REGION with the options endpoint, ca, and credentials-file or
// metadata=imdsv2 (metadata-endpoint where that service is elsewhere).
func Open(_ context.Context, spec *secretstore.Spec) (secretstore.Store, error) {
	if !region.MatchString(spec.At) {
		return nil, fmt.Errorf("%.40q is no region", spec.At)
	}
	s := &store{region: spec.At, endpoint: "https://secretsmanager." + spec.At + ".amazonaws.com", now: time.Now}
	if strings.HasPrefix(spec.At, "cn-") {
		s.endpoint += ".cn"
	}
	if e := spec.Take("endpoint"); e != "" {
		u, err := outbound.CheckURL(e)
		if err != nil || strings.Trim(u.Path, "/") != "" {
			return nil, errors.New("endpoint: write https://HOST[:PORT]")
		}
		s.endpoint = u.Scheme + "://" + u.Host
	}
	var err error
	if s.web, err = outbound.New(outbound.Options{CAFile: spec.Take("ca"), Timeout: perCall, Most: secretstore.MaxAnswer}); err != nil {
		return nil, err
	}
	file, metadata, at := spec.Take("credentials-file"), spec.Take("metadata"), spec.Take("metadata-endpoint")
	switch {
	case file != "" && metadata == "" && at == "":
		s.credentials = func(context.Context) (*aws.Credentials, error) { return aws.ReadFile(file) }
	case file == "" && metadata == "imdsv2":
		if at == "" {
			at = aws.MetadataURL
		}
		if _, err := outbound.CheckURL(at); err != nil {
			return nil, fmt.Errorf("metadata-endpoint: %w", err)
		}
		s.credentials = outbound.NewTokens(func() time.Time { return s.now() }, func(ctx context.Context) (*aws.Credentials, time.Duration, error) {
			return aws.Metadata(ctx, s.web, at, s.now())
		}).Get
	default:
		return nil, errors.New("credentials-file or metadata=imdsv2 is needed")
	}
	return s, spec.Rest()
}

// Numbered implements secretstore.Store: versions are named by UUIDs.
func (s *store) Numbered() bool { return false }

// Check implements secretstore.Store.
func (s *store) Check(w secretstore.Want) error {
	if !nameRE.MatchString(w.Name) && !arnRE.MatchString(w.Name) {
		return errors.New("the name is neither a secret's name nor its ARN")
	}
	if w.Version != "" && !version.MatchString(w.Version) {
		return errors.New("the version is no version id")
	}
	return nil
}

// Fetch implements secretstore.Store.
func (s *store) Fetch(ctx context.Context, w secretstore.Want) (*secretstore.Secret, error) {
	c, err := s.credentials(ctx)
	if err != nil {
		return nil, secretstore.Refused(err)
	}
	in := map[string]string{"SecretId": w.Name}
	if w.Version != "" {
		in["VersionId"] = w.Version
	}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	a, err := secretstore.Ask(ctx, s.web, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.endpoint+"/", bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/x-amz-json-1.1")
		req.Header.Set("X-Amz-Target", "secretsmanager.GetSecretValue")
		aws.Sign(req, body, c, s.region, "secretsmanager", s.now())
		return req, nil
	})
	if err != nil {
		return nil, err
	}
	defer clear(a.Body)
	return decode(a, w)
}

func decode(a *outbound.Answer, w secretstore.Want) (*secretstore.Secret, error) {
	if a.Status != http.StatusOK {
		return nil, refusal(a)
	}
	var doc struct {
		ARN          string
		Name         string
		VersionID    string `json:"VersionId"`
		SecretString *string
		SecretBinary []byte
	}
	if err := json.Unmarshal(a.Body, &doc); err != nil || doc.Name != w.Name && doc.ARN != w.Name || !version.MatchString(doc.VersionID) || w.Version != "" && w.Version != doc.VersionID {
		return nil, fmt.Errorf("%w: it is not the service's, or of another secret", secretstore.ErrMalformed)
	}
	value := doc.SecretBinary
	if doc.SecretString != nil {
		value = []byte(*doc.SecretString)
	}
	value, err := secretstore.Part(value, w.Field)
	if err != nil {
		return nil, err
	}
	return &secretstore.Secret{Value: value, Version: doc.VersionID}, nil
}

// refusal makes the error of what the service says.
func refusal(a *outbound.Answer) error {
	var doc struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
		Upper   string `json:"Message"`
	}
	_ = json.Unmarshal(a.Body, &doc)
	_, kind, ok := strings.Cut(doc.Type, "#")
	if !ok {
		kind = doc.Type
	}
	is := secretstore.ErrRefused
	switch kind {
	case "ResourceNotFoundException":
		is = secretstore.ErrAbsent
	case "InvalidRequestException": // a secret that is marked for deletion
		is = secretstore.ErrDeleted
	case "ThrottlingException", "InternalServiceError":
		is = secretstore.ErrAway
	}
	return fmt.Errorf("%w: status %d %.80s %s", is, a.Status, outbound.Plain(kind), outbound.Plain(doc.Message+doc.Upper))
}
