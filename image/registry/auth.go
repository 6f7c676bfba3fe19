package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/cofferproject/coffer/image/reference"
)

// MaxAuthSize is the largest auth.json, in bytes.
const MaxAuthSize = 1 << 20

// credentials of one registry or namespace.
type credentials struct{ user, password string }

// keychain is a parsed containers-auth.json(5): credentials by "host[/namespace]".
type keychain map[string]credentials

// parseAuth reads the "auths" table. Helpers and stores name programs, which a
// guest does not have; they are not followed.
func parseAuth(b []byte) (keychain, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) > MaxAuthSize {
		return nil, fmt.Errorf("registry credentials of %d bytes: more than %d", len(b), MaxAuthSize)
	}
	var doc struct {
		Auths map[string]struct {
			Auth          string `json:"auth"`
			Username      string `json:"username"`
			Password      string `json:"password"`
			IdentityToken string `json:"identitytoken"`
		} `json:"auths"`
	}
	if json.Unmarshal(b, &doc) != nil {
		// The text of a JSON error can quote its input.
		return nil, errors.New("registry credentials are not the expected JSON ({\"auths\":{...}})")
	}
	k := keychain{}
	for name, a := range doc.Auths {
		c := credentials{user: a.Username, password: a.Password}
		if a.Auth != "" {
			raw, err := base64.StdEncoding.DecodeString(a.Auth)
			if err != nil {
				return nil, fmt.Errorf("registry credentials for %.200q: auth is not base64", name)
			}
			user, password, ok := strings.Cut(strings.TrimRight(string(raw), "\x00\n"), ":")
			if !ok {
				return nil, fmt.Errorf("registry credentials for %.200q: auth is not base64 of user:password", name)
			}
			c = credentials{user: user, password: password}
		} else if a.IdentityToken != "" && c.user == "" {
			return nil, fmt.Errorf("registry credentials for %.200q: identity tokens are not supported, only user and password", name)
		}
		if c.user != "" || c.password != "" {
			k[authKey(name)] = c
		}
	}
	return k, nil
}

// authKey gives a table key in the form of a reference's name: older tools write
// URLs, and Docker Hub has several names.
func authKey(name string) string {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "https://"), "http://")
	name = strings.TrimRight(name, "/")
	for _, v := range []string{"/v1", "/v2"} {
		name = strings.TrimSuffix(name, v)
	}
	switch host, rest, _ := strings.Cut(name, "/"); host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		name = "docker.io"
		if rest != "" {
			name += "/" + rest
		}
	}
	return name
}

// find gives the credentials with the longest key that covers name, a
// "host/path" of the place actually asked: a mirror never sees the credentials
// of what it mirrors.
func (k keychain) find(name string) (credentials, bool) {
	for n := name; ; {
		if c, ok := k[n]; ok {
			return c, true
		}
		i := strings.LastIndexByte(n, '/')
		if i < 0 {
			return credentials{}, false
		}
		n = n[:i]
	}
}

// For gives the configuration with no more credentials than pulling ref can need:
// what parses one image has no use for those of another registry.
func (cfg Config) For(ref reference.Reference) (Config, error) {
	if len(cfg.Auth) == 0 {
		return cfg, nil
	}
	keys, err := parseAuth(cfg.Auth)
	if err != nil {
		return cfg, err
	}
	srcs, err := cfg.Conf.Sources(ref)
	if err != nil {
		return cfg, err
	}
	type entry struct {
		Username string `json:"username"`
		Password string `json:"password"`
	}
	auths := map[string]entry{}
	for _, s := range srcs {
		if c, ok := keys.find(s.Ref.Name()); ok {
			auths[s.Ref.Name()] = entry{c.user, c.password}
		}
	}
	if cfg.Auth, err = json.Marshal(map[string]any{"auths": auths}); err != nil {
		return cfg, fmt.Errorf("choosing registry credentials: %w", err)
	}
	return cfg, nil
}

// challenge is one WWW-Authenticate value.
type challenge struct {
	scheme string // lower case
	params map[string]string
}

// parseChallenge reads `Scheme key="value",key=value` (RFC 9110, section 11.6.1,
// one challenge for each header line, as registries send them).
func parseChallenge(s string) (challenge, error) {
	if len(s) > 4096 {
		return challenge{}, fmt.Errorf("challenge of %d bytes", len(s))
	}
	scheme, rest, _ := strings.Cut(strings.TrimSpace(s), " ")
	c := challenge{scheme: strings.ToLower(scheme), params: map[string]string{}}
	for rest = strings.TrimLeft(rest, " ,"); rest != ""; rest = strings.TrimLeft(rest, " ,") {
		key, val, ok := strings.Cut(rest, "=")
		if !ok {
			return challenge{}, errors.New("malformed challenge")
		}
		key = strings.ToLower(strings.TrimSpace(key))
		if strings.HasPrefix(val, `"`) {
			var b strings.Builder
			i := 1
			for ; i < len(val) && val[i] != '"'; i++ {
				if val[i] == '\\' && i+1 < len(val) {
					i++
				}
				b.WriteByte(val[i])
			}
			if i >= len(val) {
				return challenge{}, errors.New("malformed challenge: no closing quote")
			}
			c.params[key], rest = b.String(), val[i+1:]
		} else {
			end := strings.IndexAny(val, ", ")
			if end < 0 {
				end = len(val)
			}
			c.params[key], rest = val[:end], val[end:]
		}
	}
	return c, nil
}

// authorize answers a 401: it gives the Authorization header to try next.
func (c *Client) authorize(ctx context.Context, src Source, resp *http.Response) (string, error) {
	creds, have := c.keys.find(src.Ref.Name())
	var basic bool
	for _, h := range resp.Header.Values("WWW-Authenticate") {
		ch, err := parseChallenge(h)
		if err != nil {
			return "", err
		}
		switch ch.scheme {
		case "bearer":
			return c.token(ctx, src, ch, creds, have)
		case "basic":
			basic = true
		}
	}
	switch {
	case !basic:
		return "", errors.New("asks for credentials in a way that is not supported (neither Bearer nor Basic)")
	case !have:
		return "", fmt.Errorf("asks for credentials and none are configured for %s", src.Ref.Name())
	}
	return basicAuth(creds), nil
}

func basicAuth(c credentials) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.user+":"+c.password))
}

const maxTokenSize = 256 << 10

// token fetches a pull token (distribution "token authentication").
func (c *Client) token(ctx context.Context, src Source, ch challenge, creds credentials, have bool) (string, error) {
	u, err := url.Parse(ch.params["realm"])
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", fmt.Errorf("names token server %.200q", ch.params["realm"])
	}
	if u.Scheme == "http" && !src.Insecure {
		return "", fmt.Errorf("names token server %.200q without TLS", u.Host)
	}
	q := u.Query()
	if s := ch.params["service"]; s != "" {
		q.Set("service", s)
	}
	q.Set("scope", "repository:"+src.Ref.Path+":pull")
	u.RawQuery = q.Encode()
	ctx, cancel := context.WithTimeout(ctx, c.times.Small)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	if have {
		req.Header.Set("Authorization", basicAuth(creds))
	}
	resp, err := c.send(req)
	if err != nil {
		return "", fmt.Errorf("token server %s: %w", u.Host, c.hint(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err := statusError(resp)
		if have {
			return "", fmt.Errorf("token server %s refuses the configured credentials: %w", u.Host, err)
		}
		return "", fmt.Errorf("token server %s (no credentials are configured for %s): %w", u.Host, src.Ref.Name(), err)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenSize+1))
	if err != nil {
		return "", fmt.Errorf("token server %s: %w", u.Host, err)
	}
	var t struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	if len(b) > maxTokenSize || json.Unmarshal(b, &t) != nil {
		return "", fmt.Errorf("token server %s: answer is not a token", u.Host)
	}
	if t.Token == "" {
		t.Token = t.AccessToken
	}
	if t.Token == "" || strings.ContainsAny(t.Token, "\r\n") {
		return "", fmt.Errorf("token server %s: answer has no token", u.Host)
	}
	return "Bearer " + t.Token, nil
}

// Credentials finds user and password for a "host/path" in an auth.json, for
// callers that speak to a registry by other means.
func Credentials(auth []byte, name string) (user, password string, ok bool, err error) {
	k, err := parseAuth(auth)
	if err != nil {
		return "", "", false, err
	}
	c, ok := k.find(name)
	return c.user, c.password, ok, nil
}
