package main

import (
	"flag"
	"fmt"
	"strings"

	collateral "github.com/cofferproject/coffer/trustee/fetch"
)

// fetchFlags adds the flags of fetching collateral.
func fetchFlags(f *flag.FlagSet, o *collateral.Options) {
	f.Func("fetch", fmt.Sprintf("VENDOR or VENDOR=URL, of %s: fetch its collateral in the background, from itself or from a cache at that URL; may be repeated (default: nothing is fetched)",
		strings.Join(collateral.VendorNames(), ", ")), func(s string) error {
		name, place, ok := strings.Cut(s, "=")
		o.Vendors = append(o.Vendors, name)
		if ok {
			if o.URLs == nil {
				o.URLs = map[string]string{}
			}
			o.URLs[name] = place
		}
		return nil
	})
	f.StringVar(&o.Proxy, "fetch-proxy", "", "URL of an HTTP proxy to fetch through (default: none; the environment does not count)")
	f.StringVar(&o.CAFile, "fetch-ca", "", "certificates (PEM) of who vouches for the URLs of --fetch, or for a proxy that looks into TLS (default: the system's)")
	f.DurationVar(&o.Refresh, "fetch-every", 0, "how often what changes is fetched anew; earlier where it ends earlier (default 24h)")
	f.DurationVar(&o.Pace, "fetch-pace", 0, "least time between two requests to one vendor, of all replicas (default: 10s for amd, 1s for others)")
	f.Func("fetch-tpm-host", "host of a TPM maker's revocation lists beside the known ones; may be repeated (docs/trustee/collateral.md)", func(s string) error {
		o.TPMHosts = append(o.TPMHosts, s)
		return nil
	})
	f.DurationVar(&o.Timeout, "fetch-timeout", 0, "how long one request may take (default 20s)")
}
