package keyholder

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/resource"
	"github.com/cofferproject/coffer/api/svid"
)

// expirySkew is how long before its end a token is no longer used.
const expirySkew = 20 * time.Second

// session is the outcome of one attestation.
type session struct {
	token   string
	key     *ecdh.PrivateKey
	expires time.Time // by this process's monotonic clock
	// identity is the key for identities that the evidence has covered; nil: none.
	identity *ecdsa.PrivateKey
}

// session gives a valid session. Callers that come while an attestation runs
// share it; stale, if set, is one that the trustee no longer takes.
func (c *client) session(ctx context.Context, stale *session) (*session, error) {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return nil, errStopped
	}
	if s := c.current; s != nil && s != stale && time.Now().Before(s.expires) {
		c.mu.Unlock()
		return s, nil
	}
	c.current = nil
	f := c.flight
	if f == nil {
		// Not bound to this caller: others wait for it too. The outcome is
		// recorded before anybody hears of it.
		c.running.Add(1)
		f = start(func() (*session, error) {
			defer c.running.Done()
			s, err := c.attest(c.life)
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.flight != f { // forgotten meanwhile: good for those who wait, no longer
				return s, err
			}
			c.flight = nil
			if err == nil {
				c.current = s
			}
			return s, err
		})
		c.flight = f
	}
	c.mu.Unlock()
	return f.get(ctx)
}

// errStopped answers who asks while the key holder ends.
var errStopped = errors.New("the key holder is stopping")

// stop lets no attestation begin any more and waits for those that run; life has
// ended.
func (c *client) stop() {
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.running.Wait()
}

// forget has the next caller attest anew: what evidence says has changed.
func (c *client) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current, c.flight = nil, nil
}

// attest repeats the handshake while the trustee is not available, and where it
// says that what it misses is on its way.
func (c *client) attest(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, c.attestTimeout)
	defer cancel()
	var last error // of the try before
	for wait := 10 * time.Millisecond; ; wait = min(wait*3/2, time.Second) {
		began := time.Now()
		s, err := c.handshake(ctx)
		if err == nil {
			c.log.Info("attested", "duration", time.Since(began), "valid_for", time.Until(s.expires).Round(time.Second))
			return s, nil
		}
		// A try that the end has cut off says nothing; the one before it says why there
		// was another.
		if _, denied := denial.As(err); !denied && last != nil && ctx.Err() != nil {
			err = last
		}
		last = err
		pause := wait
		var u *unavailableError
		var d *answerDenial
		switch {
		case errors.As(err, &u):
		case errors.As(err, &d) && d.after > 0:
			pause = d.after
		default:
			c.log.Error("attestation failed", "error", err)
			return nil, err
		}
		select {
		case <-ctx.Done():
			c.log.Error("attestation failed", "error", err)
			return nil, err
		case <-time.After(pause):
		}
	}
}

// warmUp attests before anybody asks. A denial ends it: the next request tries
// again and reports what it meets.
func (c *client) warmUp(ctx context.Context) {
	for ctx.Err() == nil {
		_, err := c.session(ctx, nil)
		var u *unavailableError
		if !errors.As(err, &u) {
			return
		}
	}
}

// handshake is Request, Challenge, Attestation, Response.
func (c *client) handshake(ctx context.Context) (*session, error) {
	tee, err := c.tee.get(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening the TEE's device: %w", err)
	}
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making TEE key: %w", err)
	}
	pub, err := kbs.NewTEEKey(key.PublicKey())
	if err != nil {
		return nil, err
	}
	b, err := c.bind(ctx)
	if err != nil {
		return nil, err
	}
	defer b.close()
	extra, err := json.Marshal(requestExtra(tee, b.offer))
	if err != nil {
		return nil, fmt.Errorf("encoding request: %w", err)
	}
	body, err := json.Marshal(kbs.Request{Version: kbs.ProtocolVersion, TEE: tee.TEE(), ExtraParams: extra})
	if err != nil {
		return nil, fmt.Errorf("encoding request: %w", err)
	}
	raw, header, err := c.do(ctx, b.http, requestTimeout, http.MethodPost, "/auth", body, kbs.MaxChallenge, nil)
	if err != nil {
		return nil, err
	}
	ch, chExtra, err := kbs.DecodeChallenge(raw)
	if err != nil {
		return nil, c.protocol("%v", err)
	}
	binding, identity, err := b.confirmed(c, chExtra.Binding)
	if err != nil {
		return nil, err
	}
	if body, err = c.attestation(ctx, tee, pub, ch, chExtra, binding); err != nil {
		return nil, err
	}
	began := time.Now()
	raw, _, err = c.do(ctx, b.http, requestTimeout, http.MethodPost, "/attest", body, kbs.MaxToken, http.Header{"Cookie": cookies(header)})
	if err != nil {
		return nil, err
	}
	var rsp kbs.TokenResponse
	if err := json.Unmarshal(raw, &rsp); err != nil || rsp.Token == "" {
		return nil, c.protocol("no token in the answer")
	}
	lifetime, err := c.acceptToken(rsp.Token)
	if err != nil {
		return nil, err
	}
	s := &session{token: rsp.Token, key: key, expires: began.Add(lifetime - expirySkew)}
	if identity {
		s.identity = b.identity
	}
	return s, nil
}

// attestation makes the evidence message for a challenge.
func (c *client) attestation(ctx context.Context, tee Attester, pub *kbs.TEEKey, ch *kbs.Challenge, x *kbs.ChallengeExtra, b *kbs.Binding) ([]byte, error) {
	alg, err := kbs.SelectedHash(ch.ExtraParams)
	if err != nil {
		return nil, c.protocol("%v", err)
	}
	// The devices first: the CPU's evidence vouches for theirs.
	hash, err := kbs.DeviceRuntimeDataHash(alg, ch.Nonce, pub)
	if err != nil {
		return nil, err
	}
	additional, err := c.devices.evidence(ctx, hash)
	if err != nil {
		return nil, err
	}
	if hash, err = kbs.BoundRuntimeDataHash(alg, ch.Nonce, pub, additional, b); err != nil {
		return nil, err
	}
	evidence, err := tee.Evidence(ctx, hash, x.TPM)
	if err != nil {
		return nil, fmt.Errorf("getting evidence: %w", err)
	}
	jwk, err := json.Marshal(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding evidence: %w", err)
	}
	a := kbs.Attestation{RuntimeData: kbs.RuntimeData{Nonce: ch.Nonce, TEEPubKey: jwk, Binding: b}, TEEEvidence: kbs.Evidence{Primary: evidence, Additional: additional}}
	if c.initdata != nil {
		a.InitData = &kbs.InitData{Format: "toml", Body: string(c.initdata)}
	}
	return json.Marshal(a)
}

// cookies gives the Cookie header for the cookies that an answer set: the
// handshake's two requests share them, nothing else does.
func cookies(h http.Header) []string {
	var line string
	for _, ck := range (&http.Response{Header: h}).Cookies() {
		if line != "" {
			line += "; "
		}
		line += ck.Name + "=" + ck.Value
	}
	return []string{line}
}

// fetched is a resource, and the version of it that the trustee names; 0: none.
type fetched struct {
	content []byte
	version uint64
}

// question is what is asked of the trustee within a session.
type question struct {
	method string
	body   []byte
	header http.Header
}

// resource fetches and opens one resource, or a document about an identity.
func (c *client) resource(ctx context.Context, u *resource.URI) (*fetched, error) {
	if u.Plugin == svid.Plugin {
		return c.identity(ctx, u)
	}
	v, err := kbs.ParseVersionQuery(u.Query)
	if err != nil {
		return nil, fmt.Errorf("resource %s: %w", u.Name(), err)
	}
	return c.fetch(ctx, u, requestTimeout+v.Wait, func(*session) (*question, error) { return &question{method: http.MethodGet}, nil })
}

// fetch asks and opens the answer. A token that the trustee no longer takes is replaced
// once, and the question is made anew then.
func (c *client) fetch(ctx context.Context, u *resource.URI, most time.Duration, ask func(*session) (*question, error)) (*fetched, error) {
	var stale *session
	for attempt := 0; ; attempt++ {
		s, err := c.session(ctx, stale)
		if err != nil {
			return nil, err
		}
		q, err := ask(s)
		if err != nil {
			return nil, err
		}
		h := http.Header{"Authorization": {"Bearer " + s.token}}
		maps.Copy(h, q.header)
		raw, header, err := c.do(ctx, c.http, most, q.method, u.HTTPPath(), q.body, kbs.MaxJWE, h)
		if err == nil {
			plain, err := kbs.Open(s.key, raw)
			if err != nil {
				return nil, c.protocol("%v", err)
			}
			out := &fetched{content: plain}
			if n, err := strconv.ParseUint(header.Get(kbs.VersionHeader), 10, 64); err == nil {
				out.version = n
			}
			return out, nil
		}
		if httpStatus(err) == http.StatusNotModified {
			return nil, errNotNewer
		}
		if httpStatus(err) == http.StatusUnauthorized && attempt == 0 {
			stale = s
			continue
		}
		return nil, explain(err, u)
	}
}

// errNotNewer says that the trustee has no version after the one that is known.
var errNotNewer = errors.New("there is no newer version")

// explain names the resource in refusals that came without a typed reason.
func explain(err error, u *resource.URI) error {
	if _, ok := denial.As(err); ok {
		return err
	}
	d := &denial.Denial{Reason: ReasonKBSRefused, Component: "kbs", Claim: "resource " + u.Name()}
	switch httpStatus(err) {
	case http.StatusNotFound:
		d.Reason = ReasonResourceGone
	case http.StatusUnauthorized, http.StatusForbidden:
	default:
		return err
	}
	var e *statusError
	if errors.As(err, &e) {
		d.Detail = clip(e.info.Detail)
	}
	return &answerDenial{Denial: d, code: httpStatus(err)}
}
