// Package azure gets access tokens of Microsoft's cloud: for an application by its client
// secret, and for the identity of the machine, written from the published protocols
// (OAuth 2.0 client credentials; instance metadata service).
//
// Invariants: the secret is in a file that others cannot read; no secret is in an error.
//
// Trust zone: trustee.
package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cofferproject/coffer/trustee/outbound"
)

const (
	loginURL    = "https://login.microsoftonline.com"
	metadataURL = "http://169.254.169.254"
)

var guid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// Source says where tokens come from.
type Source struct {
	// Tenant, Client and SecretFile are of an application.
	Tenant, Client, SecretFile string
	// Login is the authority's URL; "": the public cloud's.
	Login string
	// Machine asks the metadata service, at Metadata or where it always is, for the
	// machine's identity, or that of Client.
	Machine  bool
	Metadata string
}

// Check refuses a source that is none.
func (s *Source) Check() error {
	for _, u := range []string{s.Login, s.Metadata} {
		if u == "" {
			continue
		}
		if _, err := outbound.CheckURL(u); err != nil {
			return err
		}
	}
	switch {
	case s.Machine && (s.Tenant != "" || s.SecretFile != "" || s.Client != "" && !guid.MatchString(s.Client)):
		return errors.New("the machine's identity goes with no more than a client-id")
	case !s.Machine && (!guid.MatchString(s.Tenant) || !guid.MatchString(s.Client) || s.SecretFile == ""):
		return errors.New("tenant-id, client-id and client-secret-file are needed, or metadata=imds")
	}
	return nil
}

// Token gets a token for a resource such as https://vault.azure.net, and says how long
// it is good.
func (s *Source) Token(ctx context.Context, web *outbound.Client, resource string) (string, time.Duration, error) {
	a, err := web.Do(ctx, func(ctx context.Context) (*http.Request, error) {
		if s.Machine {
			q := url.Values{"api-version": {"2018-02-01"}, "resource": {resource}}
			if s.Client != "" {
				q.Set("client_id", s.Client)
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, or(s.Metadata, metadataURL)+"/metadata/identity/oauth2/token?"+q.Encode(), nil)
			if err == nil {
				req.Header.Set("Metadata", "true")
			}
			return req, err
		}
		secret, err := outbound.Credential(s.SecretFile)
		if err != nil {
			return nil, err
		}
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {s.Client}, "client_secret": {secret}, "scope": {resource + "/.default"}}.Encode()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, or(s.Login, loginURL)+"/"+s.Tenant+"/oauth2/v2.0/token", strings.NewReader(form))
		if err == nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		return req, err
	})
	if err != nil {
		return "", 0, err
	}
	defer clear(a.Body)
	if outbound.Later(a.Status) {
		return "", 0, fmt.Errorf("%w: token: status %d", outbound.ErrAway, a.Status)
	}
	return parseToken(a.Status, a.Body)
}

func or(given, usual string) string {
	if given == "" {
		return usual
	}
	return strings.TrimSuffix(given, "/")
}

// parseToken reads the answer of either place; the metadata service has its numbers in
// strings.
func parseToken(status int, body []byte) (string, time.Duration, error) {
	var doc struct {
		Token   string          `json:"access_token"`
		Type    string          `json:"token_type"`
		Seconds json.RawMessage `json:"expires_in"`
		Error   string          `json:"error"`
	}
	err := json.Unmarshal(body, &doc)
	if status != http.StatusOK {
		return "", 0, fmt.Errorf("token: status %d %s", status, outbound.Plain(doc.Error))
	}
	seconds, serr := strconv.ParseInt(strings.Trim(string(doc.Seconds), `"`), 10, 32)
	if err != nil || serr != nil || seconds < 0 || doc.Token == "" || len(doc.Token) > 32<<10 || !strings.EqualFold(doc.Type, "Bearer") ||
		strings.ContainsFunc(doc.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", 0, errors.New("token: the answer has no bearer token")
	}
	return doc.Token, time.Duration(min(seconds, 24*3600)) * time.Second, nil
}
