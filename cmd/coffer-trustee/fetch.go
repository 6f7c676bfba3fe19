package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/cofferproject/coffer/api/resource"
	"github.com/cofferproject/coffer/trustee/keyring"
)

const (
	guestREST   = "http://127.0.0.1:8006"
	maxFetched  = 1 << 20
	fetchWithin = 2 * time.Minute // attestation included
)

// fetch gets a secret of this TEE from the trustee that its pod was sealed for.
func fetch(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("coffer-trustee fetch", flag.ContinueOnError)
	rest := f.String("rest", guestREST, "the guest's REST API")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 || f.NArg()%2 != 0 {
		return errors.New("fetch takes pairs of a resource, kbs:///REPOSITORY/TYPE/TAG, and the file to make of it")
	}
	base, err := loopback(*rest)
	if err != nil {
		return fmt.Errorf("--rest: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchWithin)
	defer cancel()
	for pair := range slices.Chunk(f.Args(), 2) {
		if err := fetchOne(ctx, base, pair[0], pair[1]); err != nil {
			return fmt.Errorf("fetching %s: %w", pair[0], err)
		}
	}
	return nil
}

func fetchOne(ctx context.Context, base *url.URL, name, path string) error {
	uri, err := resource.Parse(name)
	if err != nil {
		return err
	}
	if uri.Plugin != resource.PluginResource {
		return errors.New("not a resource")
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists", path)
	}
	b, err := getResource(ctx, base.JoinPath(append([]string{"cdh", "resource"}, uri.Path...)...).String())
	if err != nil {
		return err
	}
	return keyring.WriteFile(path, b, 0o600)
}

// loopback takes nothing but an address inside of the guest: what comes from there is
// a key.
func loopback(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	a, err := netip.ParseAddr(u.Hostname())
	if err != nil || !a.IsLoopback() || u.Scheme != "http" {
		return nil, fmt.Errorf("%q is not http on a loopback address", s)
	}
	return u, nil
}

func getResource(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	// No proxy, and no redirect to elsewhere.
	client := &http.Client{Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the guest's REST API: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxFetched+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: %.2000q", resp.Status, b)
	case len(b) > maxFetched:
		return nil, fmt.Errorf("more than %d bytes", maxFetched)
	}
	return b, nil
}
