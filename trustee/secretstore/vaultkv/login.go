package vaultkv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/cofferproject/coffer/trustee/outbound"
	"github.com/cofferproject/coffer/trustee/secretstore"
)

const (
	serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	// settled is how old a token must be before a refusal is taken for its end: no
	// login for each request that the store's policy refuses.
	settled = 30 * time.Second
	// Bounds between two looks at the lease.
	soonest, latest = 5 * time.Second, time.Hour
	maxLease        = 366 * 24 * time.Hour
)

// login is one way to get a token.
type login struct {
	fixed     string // from the published configuration file
	tokenFile string
	method    string // mount of an authentication method
	// approle
	roleID, secretID string // files
	// kubernetes
	role, jwt string // name, file
}

func takeLogin(spec *secretstore.Spec) (login, error) {
	l := login{fixed: spec.Token, tokenFile: spec.Take("token-file")}
	approle, kubernetes := spec.Take("approle"), spec.Take("kubernetes")
	l.roleID, l.secretID, l.role, l.jwt = spec.Take("role-id-file"), spec.Take("secret-id-file"), spec.Take("role"), spec.Take("jwt-file")
	ways := 0
	for _, w := range []string{l.fixed, l.tokenFile, approle, kubernetes} {
		if w != "" {
			ways++
		}
	}
	switch {
	case ways != 1:
		return l, errors.New("one way to log in is needed: token-file, approle or kubernetes")
	case approle != "":
		l.method = approle
		if l.roleID == "" || l.secretID == "" || l.role != "" || l.jwt != "" {
			return l, errors.New("approle goes with role-id-file and secret-id-file")
		}
	case kubernetes != "":
		l.method = kubernetes
		if l.role == "" || l.roleID != "" || l.secretID != "" {
			return l, errors.New("kubernetes goes with role, and jwt-file where the token is elsewhere")
		}
		if l.jwt == "" {
			l.jwt = serviceAccount
		}
	case l.role+l.jwt+l.roleID+l.secretID != "":
		return l, errors.New("a token needs no role")
	}
	if l.method != "" {
		if err := checkPath(l.method); err != nil {
			return l, fmt.Errorf("the method's mount: %w", err)
		}
	}
	return l, nil
}

// session is the token that a login gave.
type session struct {
	slot  chan struct{} // held by who reads or changes what follows
	token string
	since time.Time
	until time.Time // zero: without end
	renew bool      // the lease can be renewed
}

// hold takes the session for itself. Whoever waits for a login waits no longer than its
// own time.
func (s *store) hold(ctx context.Context) (release func(), err error) {
	select {
	case s.session.slot <- struct{}{}:
		return func() { <-s.session.slot }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: logging in: %w", secretstore.ErrAway, ctx.Err())
	}
}

// token gives one that counts, by a login if need be.
func (s *store) token(ctx context.Context) (string, error) {
	if s.login.fixed != "" {
		return s.login.fixed, nil
	}
	if s.login.tokenFile != "" {
		t, err := outbound.Credential(s.login.tokenFile)
		if err != nil {
			return "", fmt.Errorf("%w: %w", secretstore.ErrRefused, err)
		}
		return t, nil
	}
	release, err := s.hold(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	if c := &s.session; c.token != "" && (c.until.IsZero() || s.now().Before(c.until)) {
		return c.token, nil
	}
	return s.logIn(ctx)
}

// forget drops a token that the store has refused, if another one can be had; false:
// the refusal stands.
func (s *store) forget(ctx context.Context, token string) bool {
	if s.login.method == "" {
		return false
	}
	release, err := s.hold(ctx)
	if err != nil {
		return false
	}
	defer release()
	c := &s.session
	if c.token != token {
		return true // somebody has logged in since
	}
	if s.now().Sub(c.since) < settled {
		return false
	}
	c.token = ""
	return true
}

// lease is what a login or a renewal gives.
type lease struct {
	Auth struct {
		Token     string `json:"client_token"`
		Seconds   int64  `json:"lease_duration"`
		Renewable bool   `json:"renewable"`
	} `json:"auth"`
}

// logIn gets a token. The session is held.
func (s *store) logIn(ctx context.Context) (string, error) {
	var in map[string]string
	if s.login.role != "" {
		jwt, err := outbound.ServiceAccountToken(s.login.jwt)
		if err != nil {
			return "", fmt.Errorf("%w: %w", secretstore.ErrRefused, err)
		}
		in = map[string]string{"role": s.login.role, "jwt": jwt}
	} else {
		role, err := outbound.Credential(s.login.roleID)
		secret, serr := outbound.Credential(s.login.secretID)
		if err = errors.Join(err, serr); err != nil {
			return "", fmt.Errorf("%w: %w", secretstore.ErrRefused, err)
		}
		in = map[string]string{"role_id": role, "secret_id": secret}
	}
	body, err := json.Marshal(in)
	if err != nil {
		return "", err
	}
	defer clear(body)
	l, err := s.lease(ctx, "logging in", "", body, "auth", s.login.method, "login")
	if err != nil {
		return "", err
	}
	s.take(l)
	return s.session.token, nil
}

// take keeps a lease. The session is held.
func (s *store) take(l *lease) {
	c, now := &s.session, s.now()
	c.token, c.since, c.until, c.renew = l.Auth.Token, now, time.Time{}, l.Auth.Renewable
	if l.Auth.Seconds > 0 {
		c.until = now.Add(time.Duration(l.Auth.Seconds) * time.Second)
	}
}

// lease asks for a token or for more of its time.
func (s *store) lease(ctx context.Context, what, token string, body []byte, path ...string) (*lease, error) {
	a, err := s.call(ctx, http.MethodPost, s.base.JoinPath(append([]string{"v1"}, path...)...), token, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer clear(a.Body)
	if a.Status != http.StatusOK {
		return nil, fmt.Errorf("%s: %w", what, refused(a))
	}
	return decodeLease(a.Body)
}

func decodeLease(b []byte) (*lease, error) {
	l := new(lease)
	err := json.Unmarshal(b, l)
	if t := l.Auth.Token; err != nil || t == "" || len(t) > 8<<10 || strings.ContainsFunc(t, func(r rune) bool { return r <= ' ' || r >= 0x7f }) ||
		l.Auth.Seconds < 0 || l.Auth.Seconds > int64(maxLease/time.Second) {
		return nil, fmt.Errorf("%w: it has no token with a lease", secretstore.ErrMalformed)
	}
	return l, nil
}

// Keep implements secretstore.Keeper: it renews the token, so that one of a secret id
// that is good once lives on while nobody asks.
func (s *store) Keep(ctx context.Context, warn func(string, error)) {
	for wait := soonest; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		var err error
		if wait, err = s.renew(ctx); err != nil && ctx.Err() == nil {
			warn("renewing its token failed", err)
		}
	}
}

// renew has the token live on, and says when to look again. One that cannot be renewed
// is left to end: the next request logs in.
func (s *store) renew(ctx context.Context) (again time.Duration, err error) {
	if s.login.method == "" {
		return s.renewOther(ctx)
	}
	release, err := s.hold(ctx)
	if err != nil {
		return soonest, err
	}
	defer release()
	c, now := &s.session, s.now()
	if c.token == "" || c.until.IsZero() || !c.renew {
		return soonest, nil
	}
	if left, over := c.until.Sub(now), now.Sub(c.since); over < left { // less than half of it is over
		return min(max((left-over)/2, soonest), latest), nil
	}
	l, err := s.renewSelf(ctx, c.token)
	if err != nil {
		if !now.Before(c.until) {
			c.token = ""
		}
		return soonest, err
	}
	s.take(l)
	return half(l), nil
}

// renewOther renews a token that somebody else has made; its lease is told by that.
func (s *store) renewOther(ctx context.Context) (again time.Duration, err error) {
	token, err := s.token(ctx)
	if err != nil {
		return latest, err
	}
	l, err := s.renewSelf(ctx, token)
	switch {
	case errors.Is(err, secretstore.ErrRefused):
		return latest, nil // one without a lease, such as a root token, or an agent's to renew
	case err != nil:
		return soonest, err
	}
	return half(l), nil
}

func (s *store) renewSelf(ctx context.Context, token string) (*lease, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*perCall)
	defer cancel()
	return s.lease(ctx, "renewing", token, []byte(`{}`), "auth", "token", "renew-self")
}

func half(l *lease) time.Duration {
	return min(max(time.Duration(l.Auth.Seconds)*time.Second/2, soonest), latest)
}
