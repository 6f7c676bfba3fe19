// Package vaultkv fetches secrets from the key-value engine of HashiCorp Vault or
// OpenBao, versions 1 and 2, written from its published HTTP API. The trustee logs in
// with a token, by AppRole, or with its service account of Kubernetes, and renews the
// token before its lease ends.
//
// Invariants: a path is checked piece by piece, so that it stays below the engine's
// mount; no token and no answer is in an error.
//
// Trust zone: trustee.
package vaultkv

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cofferproject/coffer/trustee/outbound"
	"github.com/cofferproject/coffer/trustee/secretstore"
)

const (
	perCall   = 4 * time.Second
	maxPieces = 16
)

// piece is one part of a path. It does not begin with a dot, so that none is "..".
var piece = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@=+-]{0,127}$`)

type store struct {
	base      *url.URL
	mount     string
	version   int // of the engine
	namespace string
	web       *outbound.Client
	login     login
	session   session
	now       func() time.Time
}

// Open takes vault:https://HOST[:PORT]/MOUNT with the options kv (1 or 2), ca,
// namespace, and one way to log in: token-file; approle (the method's mount),
// role-id-file and secret-id-file; kubernetes (the method's mount), role and jwt-file.
func Open(_ context.Context, spec *secretstore.Spec) (secretstore.Store, error) {
	u, err := outbound.CheckURL(spec.At)
	if err != nil {
		return nil, err
	}
	s := &store{base: &url.URL{Scheme: u.Scheme, Host: u.Host}, mount: strings.Trim(u.Path, "/"), now: time.Now, namespace: spec.Take("namespace")}
	if err := checkPath(s.mount); err != nil {
		return nil, fmt.Errorf("the engine's mount: %w", err)
	}
	if strings.ContainsFunc(s.namespace, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, errors.New("namespace is no name")
	}
	switch v := spec.Take("kv"); v {
	case "1", "2":
		s.version = int(v[0] - '0')
	default:
		return nil, errors.New("kv=1 or kv=2 is missing: the version of the engine")
	}
	if s.login, err = takeLogin(spec); err != nil {
		return nil, err
	}
	if s.web, err = outbound.New(outbound.Options{CAFile: spec.Take("ca"), Timeout: perCall, Most: secretstore.MaxAnswer}); err != nil {
		return nil, err
	}
	s.session.slot = make(chan struct{}, 1)
	return s, spec.Rest()
}

func checkPath(path string) error {
	pieces := strings.Split(path, "/")
	if len(pieces) > maxPieces {
		return fmt.Errorf("a path of %d parts, at most %d", len(pieces), maxPieces)
	}
	for _, p := range pieces {
		if !piece.MatchString(p) {
			return fmt.Errorf("%.40q in the path is no name", p)
		}
	}
	return nil
}

// Numbered implements secretstore.Store.
func (s *store) Numbered() bool { return s.version == 2 }

// Check implements secretstore.Store.
func (s *store) Check(w secretstore.Want) error {
	if w.Field == "" {
		return errors.New("a field is missing: a secret of this store has several")
	}
	if w.Version != "" {
		if s.version == 1 {
			return errors.New("this engine (kv=1) has no versions")
		}
		if n, err := strconv.ParseUint(w.Version, 10, 32); err != nil || n == 0 || strconv.FormatUint(n, 10) != w.Version {
			return errors.New("a version of this store is a number from 1 on")
		}
	}
	return checkPath(w.Name)
}

// Fetch implements secretstore.Store.
func (s *store) Fetch(ctx context.Context, w secretstore.Want) (*secretstore.Secret, error) {
	path := s.base.JoinPath("v1", s.mount, w.Name)
	if s.version == 2 {
		path = s.base.JoinPath("v1", s.mount, "data", w.Name)
		if w.Version != "" {
			path.RawQuery = url.Values{"version": {w.Version}}.Encode()
		}
	}
	for again := false; ; again = true {
		token, err := s.token(ctx)
		if err != nil {
			return nil, err
		}
		a, err := s.call(ctx, http.MethodGet, path, token, nil)
		if err != nil {
			return nil, err
		}
		// A token that was taken back looks like one that may not: log in once more.
		if a.Status == http.StatusForbidden && !again && s.forget(ctx, token) {
			continue
		}
		defer clear(a.Body)
		if s.version == 1 {
			return decode1(a, w.Field)
		}
		return decode2(a, w)
	}
}

// call sends one request.
func (s *store) call(ctx context.Context, method string, to *url.URL, token string, body []byte) (*outbound.Answer, error) {
	a, err := s.web.Do(ctx, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, method, to.String(), reader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("X-Vault-Request", "true")
		if body != nil {
			req.Header.Set("Content-Type", "application/json")
		}
		if token != "" {
			req.Header.Set("X-Vault-Token", token)
		}
		if s.namespace != "" {
			req.Header.Set("X-Vault-Namespace", s.namespace)
		}
		return req, nil
	})
	switch {
	case errors.Is(err, outbound.ErrTooMuch):
		return nil, fmt.Errorf("%w: %w", secretstore.ErrMalformed, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", secretstore.ErrAway, err)
	case outbound.Later(a.Status): // 503 is also a sealed server, 429 a quota
		return nil, fmt.Errorf("%w: %s", secretstore.ErrAway, said(a))
	}
	return a, nil
}
