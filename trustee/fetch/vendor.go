package fetch

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel"
	nvidia "github.com/cofferproject/coffer/tee/nvidia/verifier"
	snp "github.com/cofferproject/coffer/tee/snp/verifier"
	tpm "github.com/cofferproject/coffer/tee/tpm/verifier"
)

// vendor is what is known of one publisher.
type vendor struct {
	name   string
	places []string // that its origins begin with
	// standing documents are got and kept current whoever attests.
	standing []string
	pace     time.Duration
	most     int // bytes of a document
	check    func(*collateral.Item) (collateral.Validity, error)
	// wanted says whether an origin that a verifier missed may be asked for, and
	// what it is one of: of that only few are got.
	wanted func(origin string) (group string, ok bool)
	// changing says whether an origin that is at hand has later issues.
	changing func(origin string) bool
	// other is where a document may be too that is not where it was looked for.
	other func(origin string) (string, bool)
	// locate gives the URL of an origin at another place than the vendor's.
	locate func(base, origin string) string
	// chain names the header with the issuer chain; "": none.
	chain func(origin string) string
	// issued says whether the chain of an origin's issuer comes from the verifier that
	// missed the document: neither the origin nor the vendor's answer tells it.
	issued func(origin string) bool
	// plain says whether what is published without TLS, and proves itself, may be got so
	// where the place has none. Whoever listens learns whose list it is.
	plain func(origin string) bool
}

func (v *vendor) needsIssuers(origin string) bool { return v.issued != nil && v.issued(origin) }

// vendorsOf gives all vendors that can be fetched from.
func vendorsOf(o Options) ([]*vendor, error) {
	devices, err := nvidia.NewPublished(o.nvidiaDevices, o.nvidiaManifests)
	if err != nil {
		return nil, err
	}
	makers, err := makersPlaces(o.TPMHosts)
	if err != nil {
		return nil, err
	}
	return []*vendor{
		{
			name: "amd", places: []string{snp.KDS}, standing: snp.StandingOrigins(),
			pace: 10 * time.Second, // more often, and it answers 429
			most: snp.MaxPublished, check: snp.CheckPublished,
			wanted: wantedVCEK, other: otherProduct,
			changing: func(o string) bool { return strings.HasSuffix(o, "/crl") },
			locate:   func(base, o string) string { return base + strings.TrimPrefix(o, snp.KDS) },
		},
		{
			name: "intel", places: []string{intel.PCS + "/", intel.Certificates + "/"}, standing: intel.StandingOrigins(),
			pace: time.Second, most: intel.MaxPublished, check: intel.CheckPublished,
			wanted: func(o string) (string, bool) {
				_, _, err := intel.ParseTCBInfoOrigin(o)
				return o, err == nil
			},
			changing: always,
			locate:   locateIntel, chain: chainHeader,
		},
		{
			name: "nvidia", places: []string{nvidia.Manifests, nvidia.Lists, nvidia.Responder},
			pace: time.Second, most: nvidia.MaxPublished, check: devices.Check,
			wanted: func(o string) (string, bool) {
				return o, nvidia.IsManifestOrigin(o) || strings.HasPrefix(o, nvidia.Lists) || strings.HasPrefix(o, nvidia.Responder)
			},
			changing: always, locate: locateByHost,
			issued: func(o string) bool { return !nvidia.IsManifestOrigin(o) },
			plain:  func(o string) bool { return strings.HasPrefix(o, nvidia.Lists) },
		},
		{
			name: "tpm", places: makers,
			pace: time.Second, most: tpm.MaxPublished, check: tpm.CheckPublished,
			wanted:   func(o string) (string, bool) { return o, under(o, makers) },
			changing: always, locate: locateByHost, issued: always, plain: always,
		},
	}, nil
}

func always(string) bool { return true }

func under(origin string, places []string) bool {
	return slices.ContainsFunc(places, func(p string) bool { return strings.HasPrefix(origin, p) })
}

// locateByHost: a mirror of several places has each below its host's name.
func locateByHost(base, origin string) string { return base + strings.TrimPrefix(origin, "https://") }

// TPMHosts are where makers of TPMs publish the revocation lists that their
// endorsement certificates name.
var TPMHosts = []string{
	"pki.infineon.com", "ftpm.amd.com", "upgrades.intel.com", "trustedservices.intel.com", "tsci.intel.com", "sw-center.st.com", "crl.globalsign.com",
	"www.microsoft.com",
}

// makersPlaces gives the places of TPMs' makers, with some hosts more.
func makersPlaces(more []string) (places []string, err error) {
	for _, h := range slices.Concat(TPMHosts, more) {
		u, err := url.Parse("https://" + h)
		if err != nil || h == "" || u.Host != h || u.Port() != "" || h != strings.ToLower(h) {
			return nil, fmt.Errorf("%.80q is not the name of a host, in small letters and without a port", h)
		}
		places = append(places, "https://"+h+"/")
	}
	return places, nil
}

// verify is check of bytes that nobody vouches for: a parser that fails on them by a
// fault of its own refuses this one document, and does not end the server.
func (v *vendor) verify(it *collateral.Item) (out collateral.Validity, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("checking it failed by a fault of our own: %v", p)
		}
	}()
	return v.check(it)
}

// VendorNames lists the vendors that can be fetched from.
func VendorNames() []string { return []string{"amd", "intel", "nvidia", "tpm"} }

func (f *Fetcher) vendorNamed(name string) *vendor {
	for _, v := range f.vendors {
		if v.name == name {
			return v
		}
	}
	return nil
}

// vendorOf gives whose origin it is; nil: nobody's known here.
func (f *Fetcher) vendorOf(origin string) *vendor {
	for _, v := range f.vendors {
		if under(origin, v.places) {
			return v
		}
	}
	return nil
}

func wantedVCEK(origin string) (string, bool) {
	n, err := snp.ParseVCEKOrigin(origin)
	if err != nil {
		return "", false
	}
	return hex.EncodeToString(n.ChipID[:]), true
}

// otherProduct: reports of version 2 name no processor, and verifiers name the
// first product line that they may be of.
func otherProduct(origin string) (string, bool) {
	n, err := snp.ParseVCEKOrigin(origin)
	if err != nil || n.Product != snp.Milan {
		return "", false
	}
	return snp.VCEKOrigin(snp.Genoa, n.ChipID, n.TCB), true
}

// locateIntel: caches of Intel's service serve the list of the root below a path
// of their own.
func locateIntel(base, origin string) string {
	if origin == intel.RootCRLOrigin() {
		return base + "sgx/certification/v4/rootcacrl"
	}
	return base + strings.TrimPrefix(origin, intel.PCS+"/")
}

func chainHeader(origin string) string {
	switch {
	case strings.Contains(origin, "/tcb?"):
		return "TCB-Info-Issuer-Chain"
	case strings.HasSuffix(origin, "/qe/identity"):
		return "SGX-Enclave-Identity-Issuer-Chain"
	case strings.Contains(origin, "/pckcrl?"):
		return "SGX-PCK-CRL-Issuer-Chain"
	}
	return ""
}

// itemOf makes an item of a vendor's answer.
func (v *vendor) itemOf(origin string, h http.Header, body []byte, now time.Time) (*collateral.Item, error) {
	it := &collateral.Item{Origin: origin, Body: body, Fetched: now.UTC().Truncate(time.Second)}
	if v.chain != nil {
		if name := v.chain(origin); name != "" {
			chain, err := url.QueryUnescape(h.Get(name))
			if err != nil || chain == "" {
				return nil, errors.New("no issuer chain in " + name)
			}
			it.Chain = []byte(chain)
		}
		// Caches send lists as hexadecimal text.
		if raw, err := hex.DecodeString(strings.TrimSpace(string(body))); err == nil && len(raw) > 0 {
			it.Body = raw
		}
	}
	return it, nil
}
