package oidc

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/trustee/oidc/oidctest"
)

// clock is a clock that a test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func start(t *testing.T, c Config) (*Providers, *clock) {
	t.Helper()
	now := &clock{at: time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)}
	p, err := New([]Config{c}, slog.New(slog.DiscardHandler), now.now)
	if err != nil {
		t.Fatal(err)
	}
	p.list[0].keys.pace = 5 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	p.Start(ctx)
	t.Cleanup(func() { cancel(); p.Wait() })
	return p, now
}

func await(t *testing.T, what func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !what(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen within 10 s")
		}
	}
}

func (p *Providers) known() bool { _, err := p.list[0].keys.current(); return err == nil }

func TestTokens(t *testing.T) {
	idp := oidctest.Start(t)
	p, now := start(t, Config{Issuer: idp.Issuer(), Audience: "coffer", CAFile: idp.CAFile(), Claims: []string{"groups", "realm_access.roles", "https://example/team"}})
	await(t, p.known)
	at := func(d time.Duration) int64 { return now.now().Add(d).Unix() }
	for name, tc := range map[string]struct {
		more map[string]any
		ok   bool
	}{
		"good":                    {nil, true},
		"one audience of several": {map[string]any{"aud": []string{"other", "coffer"}}, true},
		"good since now":          {map[string]any{"nbf": at(0)}, true},
		"within the leeway":       {map[string]any{"iat": at(-2 * time.Minute), "exp": at(-30 * time.Second)}, true},
		"another audience":        {map[string]any{"aud": "cofferx"}, false},
		"no audience":             {map[string]any{"aud": nil}, false},
		"expired":                 {map[string]any{"iat": at(-time.Hour), "exp": at(-2 * time.Minute)}, false},
		"no end":                  {map[string]any{"exp": nil}, false},
		"no beginning":            {map[string]any{"iat": nil}, false},
		"of tomorrow":             {map[string]any{"iat": at(time.Hour), "exp": at(2 * time.Hour)}, false},
		"not good yet":            {map[string]any{"nbf": at(time.Hour)}, false},
		"of two days":             {map[string]any{"exp": at(48 * time.Hour)}, false},
		"a time as a text":        {map[string]any{"exp": "tomorrow"}, false},
		"no subject":              {map[string]any{"sub": nil}, false},
		"an empty subject":        {map[string]any{"sub": ""}, false},
		"a subject of two lines":  {map[string]any{"sub": "a\nb"}, false},
		"a long subject":          {map[string]any{"sub": strings.Repeat("x", maxText+1)}, false},
	} {
		who, err := p.Authenticate(idp.Token("coffer", "alice", now.now(), tc.more))
		if (err == nil) != tc.ok || errors.Is(err, ErrNotOurs) {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
	who, err := p.Authenticate(idp.Token("coffer", "alice", now.now(), map[string]any{
		"groups": []any{"a", 7, "", "b = c", "x\x00"}, "realm_access": map[string]any{"roles": []string{"owner"}}, "https://example/team": "red", "other": "no",
	}))
	if err != nil {
		t.Fatal(err)
	}
	is := idp.Issuer()
	want := []string{is + " sub=alice", is + " groups=a", is + " groups=b = c", is + " realm_access.roles=owner", is + " https://example/team=red"}
	if !slices.Equal(who.Subjects, want) || who.Actor != "oidc:"+is+" alice" {
		t.Errorf("%q by %q, want %q", who.Subjects, who.Actor, want)
	}
	for name, token := range map[string]string{
		"nothing": "", "of another issuer": idp.Token("coffer", "alice", now.now(), map[string]any{"iss": "https://other.example"}), "garbage": "a.b.c",
		"long": strings.Repeat("x", 20<<10),
	} {
		if who, err := p.Authenticate(token); !errors.Is(err, ErrNotOurs) {
			t.Errorf("%s: %+v %v", name, who, err)
		}
	}
	// Another provider that names itself as this one.
	forger := oidctest.Start(t)
	if who, err := p.Authenticate(forger.Token("coffer", "alice", now.now(), map[string]any{"iss": is})); err == nil {
		t.Errorf("forged: %+v", who)
	}
	none := (*Providers)(nil)
	if _, err := none.Authenticate(idp.Token("coffer", "alice", now.now(), nil)); !errors.Is(err, ErrNotOurs) {
		t.Error(err)
	}
}

// Keys are fetched in the background, and again when one is not known; no request
// waits, and keys that cannot be fetched any more count for a day.
func TestKeysAreFetchedInTheBackground(t *testing.T) {
	idp := oidctest.Start(t)
	idp.Hang(true)
	p, now := start(t, Config{Issuer: idp.Issuer(), Audience: "coffer", CAFile: idp.CAFile()})
	token := func() string { return idp.Token("coffer", "alice", now.now(), nil) }
	quick := func(ok bool) {
		t.Helper()
		began := time.Now()
		if _, err := p.Authenticate(token()); (err == nil) != ok {
			t.Errorf("%v", err)
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("a request waited %s", d)
		}
	}
	quick(false) // the provider hangs: nobody, and at once
	idp.Hang(false)
	await(t, p.known)
	quick(true)
	idp.Rotate()
	quick(false) // and has the new key fetched
	await(t, func() bool { _, err := p.Authenticate(token()); return err == nil })
	// What the old key had signed counts no more.
	old := token()
	idp.Rotate()
	await(t, func() bool { _, err := p.Authenticate(token()); return err == nil })
	if _, err := p.Authenticate(old); err == nil {
		t.Error("a token of a key that was withdrawn counts")
	}
	// A provider that serves nonsense loses no key that is known, until they are old.
	idp.Answer("/keys", `{"keys":[]}`)
	n := idp.Requests()
	p.list[0].keys.again()
	await(t, func() bool { return idp.Requests() > n+2 })
	quick(true)
	now.add(maxAge + time.Minute)
	quick(false)
	idp.Answer("/keys", "")
	await(t, func() bool { _, err := p.Authenticate(token()); return err == nil })
}

// However many tokens of unknown keys come, the provider is asked at our pace.
func TestStrangersDoNotHaveUsAsk(t *testing.T) {
	idp, forger := oidctest.Start(t), oidctest.Start(t)
	p, now := start(t, Config{Issuer: idp.Issuer(), Audience: "coffer", CAFile: idp.CAFile()})
	await(t, p.known)
	p.list[0].keys.pace = retryAfter
	forged := forger.Token("coffer", "alice", now.now(), map[string]any{"iss": idp.Issuer()})
	for range 500 {
		if _, err := p.Authenticate(forged); err == nil {
			t.Fatal("forged")
		}
	}
	time.Sleep(50 * time.Millisecond)
	if n := idp.Requests(); n > 10 {
		t.Errorf("%d requests to the provider", n)
	}
}

func TestConfigurationRefused(t *testing.T) {
	good := Config{Issuer: "https://idp.example", Audience: "coffer"}
	for name, change := range map[string]func(*Config){
		"no TLS":        func(c *Config) { c.Issuer = "http://idp.example" },
		"no issuer":     func(c *Config) { c.Issuer = "" },
		"a user":        func(c *Config) { c.Issuer = "https://u:p@idp.example" },
		"a query":       func(c *Config) { c.Issuer = "https://idp.example?x=y" },
		"a space":       func(c *Config) { c.Issuer = "https://idp.example/a b" },
		"no audience":   func(c *Config) { c.Audience = "" },
		"keys, no TLS":  func(c *Config) { c.KeysURL = "http://idp.example/keys" },
		"an odd claim":  func(c *Config) { c.Claims = []string{"a=b"} },
		"many claims":   func(c *Config) { c.Claims = slices.Repeat([]string{"a"}, maxClaims+1) },
		"no such file":  func(c *Config) { c.CAFile = "/nonexistent" },
		"an empty name": func(c *Config) { c.Claims = []string{""} },
	} {
		c := good
		change(&c)
		if _, err := New([]Config{c}, slog.New(slog.DiscardHandler), time.Now); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := New([]Config{good, good}, slog.New(slog.DiscardHandler), time.Now); err == nil {
		t.Error("the same provider twice")
	}
	for name, doc := range map[string]string{
		"another issuer": `{"issuer":"https://other.example","jwks_uri":"https://idp.example/keys"}`, "no TLS": `{"issuer":"https://idp.example","jwks_uri":"http://idp.example/keys"}`,
		"nothing": `{}`, "no JSON": `<`, "no host": `{"issuer":"https://idp.example","jwks_uri":"https:///keys"}`,
	} {
		if u, err := discovered([]byte(doc), good.Issuer); err == nil {
			t.Errorf("%s: %s", name, u)
		}
	}
}

// FuzzIdentify: no claims panic, and who is known has a subject of this issuer.
func FuzzIdentify(f *testing.F) {
	one := &provider{Config: Config{Issuer: "https://idp.example", Audience: "coffer", Claims: []string{"groups", "a.b"}}}
	now := time.Unix(1_800_000_000, 0)
	f.Add([]byte(`{"iss":"https://idp.example","aud":"coffer","sub":"alice","iat":1800000000,"exp":1800000100,"groups":["x"],"a":{"b":"c"}}`))
	f.Add([]byte(`{"iss":"https://idp.example","aud":["coffer"],"sub":"alice","iat":1e9,"exp":18e8,"a.b":["x"]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		who, err := one.identify(raw, now)
		if err != nil {
			return
		}
		for _, s := range who.Subjects {
			if !strings.HasPrefix(s, one.Issuer+" ") {
				t.Errorf("%q", s)
			}
		}
	})
}

// FuzzDiscovered: no document panics, and what is taken is https.
func FuzzDiscovered(f *testing.F) {
	f.Add([]byte(`{"issuer":"https://idp.example","jwks_uri":"https://idp.example/keys"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, err := discovered(b, "https://idp.example"); err == nil && !strings.HasPrefix(strings.ToLower(u), "https:") {
			t.Errorf("%q", u)
		}
	})
}
