// Package oidc knows administrators by the tokens of the owner's OpenID Connect
// providers. It says who somebody is; what he may do, credentials of kind "oidc" say,
// which administrators give and take (package credential).
//
// Invariants: a token counts with a good signature by a key that its issuer serves now,
// or served within the last day, with an algorithm that fits that key; for this trustee's
// audience; with a subject, and within its time, which is no longer than a day. Keys are
// fetched in the background alone: no request waits for a provider, and none can make the
// trustee ask more often than it wants to. No key, and no address of one, is taken from a
// token.
//
// Trust zone: trustee. Tokens are hostile until verified; a provider is trusted with who
// somebody is, and its answers are bounded.
package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cofferproject/coffer/trustee/adminjwt"
)

// Limits.
const (
	MaxProviders = 16
	maxClaims    = 8   // of one provider
	maxValues    = 256 // of one claim
	maxText      = 256 // bytes of issuer, subject, audience, and of a claim's value
	maxLife      = 24 * time.Hour
	leeway       = time.Minute
)

// Config is one provider.
type Config struct {
	// Issuer is the https URL that tokens name.
	Issuer string
	// Audience is what tokens must be for: this trustee's own name at the provider.
	Audience string
	// KeysURL is where the key set is; "": where the issuer's discovery document says.
	KeysURL string
	// CAFile (PEM) vouches for the provider's certificate; "": the machine's authorities.
	CAFile string
	// Claims name somebody, beside sub: texts or lists of texts, such as groups, or
	// realm_access.roles for a member of a member.
	Claims []string
}

// Identity is who has sent a token.
type Identity struct {
	// Actor is for the audit log.
	Actor string
	// Subjects are the names by which credentials find him: the issuer, a space, a claim, =
	// and its value.
	Subjects []string
}

// Providers are all of them.
type Providers struct {
	now  func() time.Time
	log  *slog.Logger
	list []*provider
	wg   sync.WaitGroup
}

type provider struct {
	Config
	keys keySet
}

var claimRE = regexp.MustCompile(`^[A-Za-z0-9_:/-]{1,64}(\.[A-Za-z0-9_:/-]{1,64}){0,3}$`)

// New makes Providers, which know no key until Start.
func New(all []Config, log *slog.Logger, now func() time.Time) (*Providers, error) {
	if len(all) > MaxProviders {
		return nil, fmt.Errorf("identity providers: %d, at most %d", len(all), MaxProviders)
	}
	p := &Providers{now: now, log: log}
	for _, c := range all {
		if err := c.check(); err != nil {
			return nil, fmt.Errorf("identity provider %.200q: %w", c.Issuer, err)
		}
		if slices.ContainsFunc(p.list, func(have *provider) bool { return have.Issuer == c.Issuer }) {
			return nil, fmt.Errorf("identity provider %.200q is given twice", c.Issuer)
		}
		http, err := newClient(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("identity provider %.200q: %w", c.Issuer, err)
		}
		p.list = append(p.list, &provider{c, keySet{http: http, now: now, soon: make(chan struct{}, 1), pace: retryAfter}})
	}
	return p, nil
}

func (c *Config) check() error {
	for what, s := range map[string]string{"issuer": c.Issuer, "keys": c.KeysURL} {
		if what == "keys" && s == "" {
			continue
		}
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || u.RawQuery != "" && what == "issuer" || len(s) > maxText || strings.Contains(s, " ") {
			return fmt.Errorf("%s is not an https URL without user and fragment", what)
		}
	}
	if c.Audience == "" || len(c.Audience) > maxText {
		return errors.New("no audience: tokens for other services would count")
	}
	if len(c.Claims) > maxClaims {
		return fmt.Errorf("%d claims, at most %d", len(c.Claims), maxClaims)
	}
	for _, n := range c.Claims {
		if !claimRE.MatchString(n) {
			return fmt.Errorf("claim %.80q is not a name, or names joined by dots", n)
		}
	}
	return nil
}

// Start fetches keys until ctx ends, and Wait waits for that.
func (p *Providers) Start(ctx context.Context) {
	for _, one := range p.list {
		p.wg.Go(func() { one.refresh(ctx, p.log) })
	}
}

// Wait waits until nothing is fetched any more.
func (p *Providers) Wait() {
	if p != nil {
		p.wg.Wait()
	}
}

// ErrNotOurs says that a token names none of the providers.
var ErrNotOurs = errors.New("token of no identity provider of this trustee")

type claims struct {
	Issuer    string          `json:"iss"`
	Subject   string          `json:"sub"`
	Audience  json.RawMessage `json:"aud"`
	Expires   json.Number     `json:"exp"`
	Issued    json.Number     `json:"iat"`
	NotBefore json.Number     `json:"nbf"`
}

// Authenticate gives who sends a token; ErrNotOurs where it names none of the providers.
// Other errors are for the log and the owner.
func (p *Providers) Authenticate(token string) (*Identity, error) {
	if p == nil {
		return nil, ErrNotOurs
	}
	raw, err := adminjwt.Claims(token)
	if err != nil {
		return nil, ErrNotOurs
	}
	var peek struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(raw, &peek) != nil {
		return nil, ErrNotOurs
	}
	i := slices.IndexFunc(p.list, func(one *provider) bool { return one.Issuer == peek.Issuer })
	if i < 0 {
		return nil, ErrNotOurs
	}
	one := p.list[i]
	keys, err := one.keys.current()
	if err != nil {
		return nil, err
	}
	if raw, err = adminjwt.Verified(token, keys); err != nil {
		if errors.Is(err, adminjwt.ErrNoKey) {
			one.keys.again() // the provider may have a new one, for the next request
		}
		return nil, err
	}
	return one.identify(raw, p.now())
}

// identify reads claims that are verified.
func (one *provider) identify(raw []byte, now time.Time) (*Identity, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var c claims
	if err := d.Decode(&c); err != nil {
		return nil, errors.New("token: claims are not as they should be")
	}
	if err := one.accepts(&c, now); err != nil {
		return nil, err
	}
	var all map[string]any
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, errors.New("token: claims are not an object")
	}
	out := &Identity{Actor: "oidc:" + one.Issuer + " " + c.Subject, Subjects: []string{Subject(one.Issuer, "sub", c.Subject)}}
	for _, name := range one.Claims {
		for _, v := range values(all, name) {
			out.Subjects = append(out.Subjects, Subject(one.Issuer, name, v))
		}
	}
	return out, nil
}

func (one *provider) accepts(c *claims, now time.Time) error {
	exp, err := c.Expires.Float64()
	iat, ierr := c.Issued.Float64()
	switch {
	case c.Issuer != one.Issuer:
		return errors.New("token: of another issuer than this key's")
	case !hasAudience(c.Audience, one.Audience):
		return errors.New("token: for another audience")
	case c.Subject == "" || !text(c.Subject):
		return errors.New("token: no subject, or one that is too long or not printable")
	case err != nil || ierr != nil:
		return errors.New("token: exp and iat are needed")
	case now.Add(-leeway).Unix() >= int64(exp):
		return errors.New("token: expired")
	case int64(iat) > now.Add(leeway).Unix():
		return errors.New("token: of tomorrow")
	case exp-iat > maxLife.Seconds():
		return fmt.Errorf("token: lives longer than %s", maxLife)
	}
	if c.NotBefore == "" {
		return nil
	}
	if nbf, err := c.NotBefore.Float64(); err != nil || now.Add(leeway).Unix() < int64(nbf) {
		return errors.New("token: not good yet")
	}
	return nil
}

// Subject is the name by which a credential finds somebody: no issuer and no claim has a
// space or =, so that there is one way to read it.
func Subject(issuer, claim, value string) string { return issuer + " " + claim + "=" + value }

// values gives the texts of a claim, which may be a member of a member.
func values(m map[string]any, name string) (out []string) {
	var v any = m
	// A claim may have dots in its own name.
	if whole, ok := m[name]; ok {
		v = whole
	} else {
		for part := range strings.SplitSeq(name, ".") {
			o, ok := v.(map[string]any)
			if !ok {
				return nil
			}
			v = o[part]
		}
	}
	switch t := v.(type) {
	case string:
		out = append(out, t)
	case []any:
		for _, e := range t[:min(len(t), maxValues)] {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
	}
	return slices.DeleteFunc(out, func(s string) bool { return s == "" || !text(s) })
}

func text(s string) bool {
	return len(s) <= maxText && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// hasAudience takes a string or a list of them.
func hasAudience(raw json.RawMessage, want string) bool {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return one == want
	}
	var l []string
	return json.Unmarshal(raw, &l) == nil && slices.Contains(l, want)
}
