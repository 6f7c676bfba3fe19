package remoteas

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/trustee/release"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// handshakes begins the audience of what a Coffer trustee has judged in a handshake
// of its own.
var handshakes = tenant.Audience("")

// maxPassport is the longest life of a token that counts here: nobody can take one
// back.
const maxPassport = 24 * time.Hour

// Passports takes, in one namespace, tokens that other services have issued: the
// published passport model. Own tokens come first.
type Passports struct {
	release.Tokens
	Namespace string
	Trust     *Trust
	Registry  *tenant.Registry
	Now       func() time.Time
}

// Verify gives the claims of an own token, or those of another service as if they
// were own ones.
func (p *Passports) Verify(ctx context.Context, ns, token string) (*ear.Claims, error) {
	c, err := p.Tokens.Verify(ctx, ns, token)
	if err == nil || ns != p.Namespace || errors.Is(err, ear.ErrExpired) {
		return c, err
	}
	foreign, ferr := p.Trust.verify(token, p.Now())
	if ferr != nil {
		if errors.Is(ferr, ear.ErrExpired) {
			return nil, ferr
		}
		return nil, errors.Join(err, fmt.Errorf("as another service's: %w", ferr))
	}
	n, err := p.Registry.Namespace(ctx, ns)
	if err != nil {
		return nil, err
	}
	if err := p.passport(foreign); err != nil {
		return nil, fmt.Errorf("another service's token: %w", err)
	}
	l := localizer{namespace: n} // never samples: nobody here has seen their evidence
	if err := l.localize(foreign); err != nil {
		return nil, fmt.Errorf("another service's token: %w", err)
	}
	foreign.Audience = tenant.Audience(ns)
	return foreign, nil
}

// passport takes what came of a handshake: what an Attestation Service has judged
// for some caller is that caller's alone.
func (p *Passports) passport(c *ear.Claims) error {
	if c.Audience != "" && !strings.HasPrefix(c.Audience, handshakes) {
		return fmt.Errorf("for %.128q: judged for a caller of an attestation service, who has to say whether it is fresh", c.Audience)
	}
	if life := time.Duration(c.Expires-c.IssuedAt) * time.Second; life > maxPassport {
		return fmt.Errorf("good for %s, at most %s", life, maxPassport)
	}
	if time.Unix(c.IssuedAt, 0).After(p.Now().Add(ear.Leeway)) {
		return errors.New("issued in the future")
	}
	return nil
}
