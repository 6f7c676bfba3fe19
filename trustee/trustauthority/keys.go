package trustauthority

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cofferproject/coffer/trustee/adminjwt"
)

// When keys are fetched: every now and then, sooner after a failure or for a key that
// is not known, and never more often than that.
const (
	refreshEvery = time.Hour
	refreshSoon  = 30 * time.Second
	wellKnown    = "/.well-known/openid-configuration"
)

// errNoKeys says that there are no keys yet.
var errNoKeys = errors.New("the service's keys have not been fetched yet")

// keys are the service's, from a file or fetched by run and nobody else.
type keys struct {
	path, url string // one of them
	http      *client
	now       func() time.Time
	wanted    chan struct{}

	mu    sync.Mutex
	known []adminjwt.Key
	last  error // of the last attempt
}

func newKeys(from string, h *client, now func() time.Time) (*keys, error) {
	k := &keys{http: h, now: now, wanted: make(chan struct{}, 1), last: errNoKeys}
	if strings.HasPrefix(from, "https://") || strings.HasPrefix(from, "http://") {
		u, err := place(from)
		k.url = u
		return k, err
	}
	k.path = strings.TrimPrefix(from, "file://")
	b, err := readFile(k.path)
	if err == nil {
		err = k.set(b)
	}
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return k, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", path, maxFile)
	}
	return b, err
}

// set takes a key set, all of it or nothing.
func (k *keys) set(b []byte) error {
	l, err := adminjwt.ParseJWKS(b)
	if err != nil {
		return fmt.Errorf("key set: %w", err)
	}
	k.mu.Lock()
	k.known, k.last = l, nil
	k.mu.Unlock()
	return nil
}

// run fetches keys until ctx ends. What was known counts until there is a newer set.
func (k *keys) run(ctx context.Context) {
	wait := time.Duration(0)
	for {
		t := time.NewTimer(wait)
		wanted := k.wanted
		if wait <= refreshSoon {
			wanted = nil // it is soon enough
		}
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
			if wait = refreshEvery; k.load(ctx) != nil {
				wait = refreshSoon
			}
		case <-wanted:
			t.Stop()
			wait = refreshSoon
		}
	}
}

func (k *keys) load(ctx context.Context) error {
	b, err := k.read(ctx)
	if err == nil {
		err = k.set(b)
	}
	if err != nil {
		k.mu.Lock()
		k.last = err
		k.mu.Unlock()
	}
	return err
}

func (k *keys) read(ctx context.Context) ([]byte, error) {
	if k.path != "" {
		return readFile(k.path)
	}
	b, err := k.fetch(ctx, k.url)
	if err == nil {
		if _, err = adminjwt.ParseJWKS(b); err == nil {
			return b, nil
		}
	}
	// As published: it may be the place of a configuration that says where keys are.
	config, cerr := k.fetch(ctx, k.url+wellKnown)
	if cerr != nil {
		return nil, errors.Join(err, cerr)
	}
	var doc struct {
		Keys string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(config, &doc); err != nil {
		return nil, fmt.Errorf("OpenID configuration: %w", err)
	}
	at, err := place(doc.Keys)
	if err == nil && strings.HasPrefix(k.url, "https:") && !strings.HasPrefix(at, "https:") {
		err = errors.New("its key set has no TLS")
	}
	if err != nil {
		return nil, fmt.Errorf("OpenID configuration: %w", err)
	}
	return k.fetch(ctx, at)
}

func (k *keys) fetch(ctx context.Context, where string) ([]byte, error) {
	status, b, err := k.http.do(ctx, http.MethodGet, where, nil, nil, maxFile)
	var u *url.Error
	switch {
	case errors.As(err, &u):
		return nil, fmt.Errorf("fetching keys: %w", u.Err)
	case err != nil:
		return nil, fmt.Errorf("fetching keys: %w", err)
	case status != http.StatusOK:
		return nil, fmt.Errorf("fetching keys: status %d", status)
	}
	return b, nil
}

// of gives the key of an id. One that is not known is asked for in the background.
func (k *keys) of(id string) (*adminjwt.Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.known {
		if k.known[i].ID == id && id != "" {
			return &k.known[i], nil
		}
	}
	select {
	case k.wanted <- struct{}{}:
	default:
	}
	if len(k.known) == 0 {
		return nil, fmt.Errorf("no key is known: %w", k.last)
	}
	return nil, fmt.Errorf("key %.60q is none of the service's %d", id, len(k.known))
}
