package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cofferproject/coffer/trustee/adminjwt"
)

// Times of fetching.
const (
	fetchEvery = 10 * time.Minute
	retryAfter = 30 * time.Second // after a failure, and for keys that are not known
	maxAge     = 24 * time.Hour   // keys that could not be fetched again count no longer
	fetchTime  = 10 * time.Second

	maxAnswer = 256 << 10 // bytes
)

// keySet has the keys of one provider.
type keySet struct {
	http *http.Client
	now  func() time.Time
	soon chan struct{}
	pace time.Duration // least time between two attempts

	mu   sync.Mutex
	keys []adminjwt.Key
	at   time.Time
}

// current gives the keys that count now.
func (k *keySet) current() ([]adminjwt.Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.keys == nil:
		return nil, errors.New("token: the keys of its identity provider are not known yet")
	case k.now().Sub(k.at) > maxAge:
		return nil, fmt.Errorf("token: the keys of its identity provider could not be fetched since %s", k.at.UTC().Format(time.RFC3339))
	}
	return k.keys, nil
}

// again has the keys fetched before their time, as soon as the pace allows.
func (k *keySet) again() {
	select {
	case k.soon <- struct{}{}:
	default:
	}
}

// refresh fetches until ctx ends.
func (one *provider) refresh(ctx context.Context, log *slog.Logger) {
	for {
		wait := max(fetchEvery, one.keys.pace)
		if err := one.fetch(ctx); err != nil && ctx.Err() == nil {
			log.Error("fetching an identity provider's keys failed", "issuer", one.Issuer, "error", err)
			wait = one.keys.pace
		}
		if !one.pause(ctx, wait) {
			return
		}
	}
}

// pause waits so long, or as long as a key that is not known may have it wait.
func (one *provider) pause(ctx context.Context, wait time.Duration) bool {
	least, most := time.NewTimer(min(wait, one.keys.pace)), time.NewTimer(wait)
	defer least.Stop()
	defer most.Stop()
	select { // never sooner than this, whatever is sent to us
	case <-least.C:
	case <-ctx.Done():
		return false
	}
	select {
	case <-most.C:
	case <-one.keys.soon:
	case <-ctx.Done():
		return false
	}
	return true
}

func (one *provider) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	from := one.KeysURL
	if from == "" {
		var err error
		if from, err = one.discover(ctx); err != nil {
			return err
		}
	}
	b, err := one.keys.get(ctx, from)
	if err != nil {
		return err
	}
	keys, err := adminjwt.UsableKeys(b)
	if err != nil {
		return err
	}
	one.keys.mu.Lock()
	defer one.keys.mu.Unlock()
	one.keys.keys, one.keys.at = keys, one.keys.now()
	return nil
}

// discover reads where the key set is (OpenID Connect Discovery 1.0, section 4).
func (one *provider) discover(ctx context.Context) (string, error) {
	b, err := one.keys.get(ctx, strings.TrimSuffix(one.Issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return "", err
	}
	return discovered(b, one.Issuer)
}

func discovered(b []byte, issuer string) (string, error) {
	var doc struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return "", errors.New("discovery document is not JSON")
	}
	if doc.Issuer != issuer {
		return "", fmt.Errorf("discovery document is of issuer %.200q", doc.Issuer)
	}
	if u, err := url.Parse(doc.Keys); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return "", errors.New("discovery document has no https URL of a key set")
	}
	return doc.Keys, nil
}

// newClient makes a client that follows no redirection.
func newClient(caFile string) (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		f, err := os.Open(caFile)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, 1<<20))
		if err != nil {
			return nil, err
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s holds no certificate", caFile)
		}
	}
	return &http.Client{
		Transport: &http.Transport{TLSClientConfig: conf, MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 1, IdleConnTimeout: time.Minute, Proxy: http.ProxyFromEnvironment},
		Timeout:   fetchTime,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}, nil
}

func (k *keySet) get(ctx context.Context, from string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "coffer-trustee")
	req.Header.Set("Accept", "application/json")
	resp, err := k.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d", from, resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = fmt.Errorf("%s: more than %d bytes", from, maxAnswer)
	}
	return b, err
}
