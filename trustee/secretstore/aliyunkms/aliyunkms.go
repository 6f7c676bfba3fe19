// Package aliyunkms fetches secrets of Alibaba Cloud's Key Management Service, written
// from its published API (GetSecretValue, 2016-01-20), with an access key in files.
//
// Trust zone: trustee.
package aliyunkms

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/cofferproject/coffer/trustee/cloud/alibaba"
	"github.com/cofferproject/coffer/trustee/outbound"
	"github.com/cofferproject/coffer/trustee/secretstore"
)

const (
	perCall    = 4 * time.Second
	action     = "GetSecretValue"
	apiVersion = "2016-01-20"
)

var (
	region    = regexp.MustCompile(`^[a-z]{2}-[a-z0-9-]{1,40}$`)
	nameRE    = regexp.MustCompile(`^[A-Za-z0-9_+=.@/-]{1,64}$`)
	versionRE = regexp.MustCompile(`^[A-Za-z0-9_+=.@/-]{1,64}$`)
)

type store struct {
	endpoint        string
	idFile, keyFile string
	web             *outbound.Client
	now             func() time.Time
}

// Open takes aliyun:REGION with the options endpoint, ca, access-key-id-file and
// access-key-secret-file.
func Open(_ context.Context, spec *secretstore.Spec) (secretstore.Store, error) {
	if !region.MatchString(spec.At) {
		return nil, fmt.Errorf("%.40q is no region", spec.At)
	}
	s := &store{endpoint: "https://kms." + spec.At + ".aliyuncs.com", idFile: spec.Take("access-key-id-file"), keyFile: spec.Take("access-key-secret-file"), now: time.Now}
	if e := spec.Take("endpoint"); e != "" {
		u, err := outbound.CheckURL(e)
		if err != nil || strings.Trim(u.Path, "/") != "" {
			return nil, errors.New("endpoint: write https://HOST[:PORT]")
		}
		s.endpoint = u.Scheme + "://" + u.Host
	}
	if s.idFile == "" || s.keyFile == "" {
		return nil, errors.New("access-key-id-file and access-key-secret-file are needed")
	}
	var err error
	if s.web, err = outbound.New(outbound.Options{CAFile: spec.Take("ca"), Timeout: perCall, Most: secretstore.MaxAnswer}); err != nil {
		return nil, err
	}
	return s, spec.Rest()
}

// Numbered implements secretstore.Store: versions have names.
func (s *store) Numbered() bool { return false }

// Check implements secretstore.Store.
func (s *store) Check(w secretstore.Want) error {
	if !nameRE.MatchString(w.Name) {
		return errors.New("a secret's name is of letters, digits and _+=.@/-, at most 64 of them")
	}
	if w.Version != "" && !versionRE.MatchString(w.Version) {
		return errors.New("a version's name is of letters, digits and _+=.@/-, at most 64 of them")
	}
	return nil
}

// Fetch implements secretstore.Store.
func (s *store) Fetch(ctx context.Context, w secretstore.Want) (*secretstore.Secret, error) {
	id, err := outbound.Credential(s.idFile)
	key, kerr := outbound.Credential(s.keyFile)
	if err = errors.Join(err, kerr); err != nil {
		return nil, secretstore.Refused(err)
	}
	q := url.Values{"SecretName": {w.Name}}
	if w.Version != "" {
		q.Set("VersionId", w.Version)
	}
	a, err := secretstore.Ask(ctx, s.web, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.endpoint+"/?"+q.Encode(), nil)
		if err == nil {
			req.Header.Set("Accept", "application/json")
			alibaba.Sign(req, nil, id, key, action, apiVersion, rand.Text(), s.now())
		}
		return req, err
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
		SecretName, VersionID, SecretDataType string
		SecretData                            *string
	}
	// encoding/json takes VersionId for VersionID.
	if err := json.Unmarshal(a.Body, &doc); err != nil || doc.SecretData == nil || doc.SecretName != w.Name || !versionRE.MatchString(doc.VersionID) || w.Version != "" && w.Version != doc.VersionID {
		return nil, fmt.Errorf("%w: it is not the service's, or of another secret", secretstore.ErrMalformed)
	}
	var value []byte
	var err error
	switch doc.SecretDataType {
	case "text":
		value = []byte(*doc.SecretData)
	case "binary":
		value, err = base64.StdEncoding.DecodeString(*doc.SecretData)
	default:
		err = errors.New("neither text nor binary")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: its data is not of its type", secretstore.ErrMalformed)
	}
	if value, err = secretstore.Part(value, w.Field); err != nil {
		return nil, err
	}
	return &secretstore.Secret{Value: value, Version: doc.VersionID}, nil
}

// refusal makes the error of what the service says.
func refusal(a *outbound.Answer) error {
	var doc struct{ Code, Message string }
	_ = json.Unmarshal(a.Body, &doc)
	is := secretstore.ErrRefused
	switch {
	case doc.Code == "Forbidden.ResourceNotFound":
		is = secretstore.ErrAbsent
	case doc.Code == "Rejected.SecretInPendingDelete" || doc.Code == "Rejected.Disabled":
		is = secretstore.ErrDeleted
	case strings.HasPrefix(doc.Code, "Throttling") || doc.Code == "Rejected.Throttling":
		is = secretstore.ErrAway
	}
	return fmt.Errorf("%w: status %d %.80s %s", is, a.Status, outbound.Plain(doc.Code), outbound.Plain(doc.Message))
}
