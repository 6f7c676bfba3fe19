// Package session keeps handshakes. An opened session lies with the client alone,
// in a cookie under a MAC, so that /auth stores nothing; an attested one lies in
// the store, together with the mark that its nonce is used up.
//
// Invariants: a cookie serves one namespace and ends; a nonce yields one token;
// the cookie of an attested session is random but for its time, and stored only as
// its hash.
//
// Trust zone: trustee.
package session

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Component names sessions in denials.
const Component = "kbs"

// Reasons of denials. docs/denials.md explains each.
const (
	ReasonInvalid denial.Reason = "session-invalid"
	ReasonExpired denial.Reason = "session-expired"
	ReasonUsed    denial.Reason = "session-used"
)

// OpenFor is how long a client may take to come back with evidence.
const OpenFor = 5 * time.Minute

// MaxCookie is the longest cookie, in bytes.
const MaxCookie = 14 << 10

// Prefixes of the two kinds of cookies.
const (
	prefixOpen     = "o1."
	prefixAttested = "a1."
)

const (
	expiryBucket = "session-expiry"

	sessionsBucket = "sessions"
	usedNonces     = "used-nonces"
)

// Buckets are those of a namespace, to be emptied when it is deleted.
func Buckets() []string { return []string{sessionsBucket, usedNonces} }

// Open is a session that waits for evidence.
type Open struct {
	Namespace string `json:"n"`
	TEE       string `json:"t"`
	Nonce     string `json:"c"`
	Hash      string `json:"h"`
	// Asked is the SHA-256 of the nonce as it was sent, where that is not Nonce.
	Asked   []byte          `json:"q,omitempty"`
	Extra   json.RawMessage `json:"x,omitempty"` // Request.extra-params
	Binding []string        `json:"b,omitempty"` // what the challenge has confirmed (kbs.Confirmed)
	Expires int64           `json:"e"`
}

// Ask notes the nonce as it is sent to the client: the session's own, or a text
// that the TEE wants in its place, of which the cookie keeps the hash alone.
func (o *Open) Ask(nonce string) {
	if o.Asked = nil; nonce != o.Nonce {
		h := sha256.Sum256([]byte(nonce))
		o.Asked = h[:]
	}
}

// Answers reports whether a client repeats the nonce that it was sent.
func (o *Open) Answers(nonce string) bool {
	if o.Asked == nil {
		return nonce == o.Nonce
	}
	h := sha256.Sum256([]byte(nonce))
	return bytes.Equal(h[:], o.Asked)
}

// Manager makes and checks sessions.
type Manager struct {
	store store.Store
	key   []byte
	most  limits.Set
	now   func() time.Time
}

// New makes a Manager. mac is the trustee's MAC key; of the limits Sessions counts.
func New(s store.Store, mac []byte, most limits.Set, now func() time.Time) *Manager {
	h := hmac.New(sha256.New, mac)
	h.Write([]byte("coffer session key 1"))
	return &Manager{s, h.Sum(nil), most, now}
}

// NewNonce gives a nonce in its published form.
func NewNonce() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.StdEncoding.EncodeToString(b[:])
}

func (m *Manager) mac(payload string) []byte {
	h := hmac.New(sha256.New, m.key)
	h.Write([]byte(payload))
	return h.Sum(nil)
}

// Begin gives the cookie of a new session.
func (m *Manager) Begin(o Open) (cookie string, expires time.Time, err error) {
	expires = m.now().Add(OpenFor)
	o.Expires = expires.Unix()
	b, err := json.Marshal(o)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("session: %w", err)
	}
	p := base64.RawURLEncoding.EncodeToString(b)
	cookie = prefixOpen + p + "." + base64.RawURLEncoding.EncodeToString(m.mac(p))
	if len(cookie) > MaxCookie {
		return "", time.Time{}, deny(ReasonInvalid, "extra-params too long")
	}
	return cookie, expires, nil
}

// Opened checks the cookie of a session that waits for evidence.
func (m *Manager) Opened(ctx context.Context, ns, cookie string) (*Open, error) {
	if strings.HasPrefix(cookie, prefixAttested) {
		return nil, deny(ReasonUsed, "the session is attested; a new handshake begins with /auth")
	}
	rest, ok := strings.CutPrefix(cookie, prefixOpen)
	p, tag, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || len(cookie) > MaxCookie {
		return nil, deny(ReasonInvalid, "not a session cookie")
	}
	sum, err := base64.RawURLEncoding.DecodeString(tag)
	if err != nil || !hmac.Equal(sum, m.mac(p)) {
		return nil, deny(ReasonInvalid, "not a session of this trustee")
	}
	b, err := base64.RawURLEncoding.DecodeString(p)
	if err != nil {
		return nil, deny(ReasonInvalid, "not a session cookie")
	}
	o := new(Open)
	if err := json.Unmarshal(b, o); err != nil {
		return nil, deny(ReasonInvalid, "not a session cookie")
	}
	if o.Namespace != ns {
		return nil, deny(ReasonInvalid, "a session of another namespace")
	}
	if m.now().Unix() >= o.Expires {
		return nil, deny(ReasonExpired, "")
	}
	err = m.store.View(ctx, func(tx store.Tx) error { return unused(tx, o) })
	if err != nil {
		return nil, err
	}
	return o, nil
}

// clocksDiffer is by how much the clocks of replicas may.
const clocksDiffer = 5 * time.Minute

// used is the key in the expiry bucket under which a nonce is remembered: that it is to
// be forgotten, when no replica takes its cookie any more, is the memory of it. The time is
// the cookie's, which is authentic.
func (o *Open) used() string {
	return expiryKey(time.Unix(o.Expires, 0).Add(clocksDiffer), tenant.Bucket(o.Namespace, usedNonces), o.Nonce)
}

func unused(tx store.Tx, o *Open) error {
	v, err := tx.Get(expiryBucket, o.used())
	if err != nil {
		return err
	}
	if v != nil {
		return deny(ReasonUsed, "the session has attested once")
	}
	return nil
}

// Complete uses the nonce up and keeps the token; also runs in the same
// transaction. It gives the cookie of the attested session. Where the namespace has as
// many as it may, the error is a *limits.Error.
func (m *Manager) Complete(ctx context.Context, o *Open, token string, expires time.Time, also func(store.Tx) error) (string, error) {
	cookie := newCookie(m.now())
	sessions := tenant.Bucket(o.Namespace, sessionsBucket)
	key, err := keyOf(cookie)
	if err != nil {
		return "", err
	}
	value, err := (&attested{token, expires.Unix()}).encode()
	if err != nil {
		return "", fmt.Errorf("session: %w", err)
	}
	err = m.store.Update(ctx, func(tx store.Tx) error {
		if m.now().Unix() >= o.Expires { // the evidence may have taken its time to come
			return deny(ReasonExpired, "")
		}
		if err := unused(tx, o); err != nil {
			return err
		}
		if err := tx.Put(expiryBucket, o.used(), []byte{1}); err != nil {
			return err
		}
		if err := tenant.Grow(tx, m.most, limits.Sessions, o.Namespace, sessions); err != nil {
			return err
		}
		if err := tx.Put(sessions, key, value); err != nil {
			return err
		}
		if err := ForgetAt(tx, time.Unix(expires.Unix(), 0), sessions, key); err != nil {
			return err
		}
		return also(tx)
	})
	if err != nil {
		return "", err
	}
	return cookie, nil
}

// ForgetAt has Sweep delete a pair, some time after at. A bucket has no "|".
func ForgetAt(tx store.Tx, at time.Time, bucket, key string) error {
	return tx.Put(expiryBucket, expiryKey(at, bucket, key), nil)
}

func expiryKey(at time.Time, bucket, key string) string {
	return fmt.Sprintf("%020d|%s|%s", at.Unix(), bucket, key)
}

// An attested session's cookie is the time of its beginning, in milliseconds, and a
// random number. The time is no secret and decides nothing: it has sessions lie in the store
// in their order, so that those of one commit share its pages.
const (
	cookieTime   = 8  // bytes
	cookieRandom = 32 // bytes
)

func newCookie(now time.Time) string {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, cookieTime+cookieRandom), uint64(now.UnixMilli()))
	b = b[:cookieTime+cookieRandom]
	rand.Read(b[cookieTime:])
	return prefixAttested + base64.RawURLEncoding.EncodeToString(b)
}

// keyOf gives the key of an attested session: its time, and the hash of all of its
// cookie. Cookies of before have no time.
func keyOf(cookie string) (string, error) {
	text, ok := strings.CutPrefix(cookie, prefixAttested)
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(b) != cookieTime+cookieRandom && len(b) != cookieRandom {
		return "", ErrNone
	}
	s := sha256.Sum256([]byte(cookie))
	return hex.EncodeToString(b[:len(b)-cookieRandom]) + hex.EncodeToString(s[:]), nil
}

// ErrNone says that a cookie names no attested session.
var ErrNone = errors.New("no attested session")

// Token gives the token of an attested session, or ErrNone.
func (m *Manager) Token(ctx context.Context, ns, cookie string) (string, error) {
	if len(cookie) > 128 {
		return "", ErrNone
	}
	key, err := keyOf(cookie)
	if err != nil {
		return "", err
	}
	var a *attested
	err = m.store.View(ctx, func(tx store.Tx) error {
		v, err := tx.Get(tenant.Bucket(ns, sessionsBucket), key)
		if err != nil || v == nil {
			return err
		}
		a, err = decodeAttested(v)
		return err
	})
	if err != nil {
		return "", err
	}
	if a == nil || m.now().Unix() >= a.Expires {
		return "", ErrNone
	}
	return a.Token, nil
}

// Sweep deletes what has ended, at most limit entries, and gives their number.
func (m *Manager) Sweep(ctx context.Context, limit int) (int, error) {
	until := fmt.Sprintf("%020d", m.now().Unix())
	n := 0
	err := m.store.Update(ctx, func(tx store.Tx) error {
		n = 0
		var keys []string
		err := tx.Scan(expiryBucket, "", func(k string, _ []byte) (bool, error) {
			if k >= until || len(keys) >= limit {
				return false, nil
			}
			keys = append(keys, k)
			return true, nil
		})
		if err != nil {
			return err
		}
		for _, k := range keys {
			p := strings.SplitN(k, "|", 3)
			if len(p) != 3 {
				continue
			}
			if strings.HasSuffix(p[1], "/"+sessionsBucket) {
				switch v, err := tx.Get(p[1], p[2]); {
				case err != nil:
					return err
				case v != nil:
					if err := tenant.Shrink(tx, p[1]); err != nil {
						return err
					}
				}
			}
			if err := errors.Join(tx.Delete(p[1], p[2]), tx.Delete(expiryBucket, k)); err != nil {
				return err
			}
		}
		n = len(keys)
		return nil
	})
	return n, err
}

func deny(r denial.Reason, detail string) *denial.Denial {
	return &denial.Denial{
		Reason: r, Component: Component, Claim: "session", Measured: detail, Expected: "a challenge of this trustee that is open", Source: "session cookie",
	}
}
