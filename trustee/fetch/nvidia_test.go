package fetch

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/nvidia"
	"github.com/cofferproject/coffer/tee/nvidia/nvidiatest"
	"github.com/cofferproject/coffer/tee/nvidia/verifier"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/trustee/fetch/fetchtest"
)

// gpus is a world of NVIDIA's in the summer of 2026, under a root of the test's.
type gpus struct {
	*world
	vendor   *nvidiatest.Vendor
	manifest *nvidiatest.CA // root of manifests
	evidence json.RawMessage
	lists    []*collateral.Item
	answers  []*collateral.Item // of the OCSP responder, for the same two certificates
}

var nonce = slices.Repeat([]byte{7}, 32)

func newGPUs(t *testing.T) *gpus {
	w := newWorld(t)
	w.pass(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC).Sub(w.day))
	g := &gpus{world: w, vendor: nvidiatest.NewVendor(t, "GH100", nil), manifest: nvidiatest.New(t, nil, "Test Manifest CA", nil)}
	d := g.vendor.NewDevice(t, "HOPPER")
	var err error
	if g.evidence, err = json.Marshal(nvidia.Evidence{Simulation: nvidiatest.Note, Devices: []nvidia.Device{d.Evidence(t, nonce)}}); err != nil {
		t.Fatal(err)
	}
	g.lists = g.vendor.Lists(t, w.now())
	origins, err := verifier.Origins(g.evidence, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The two certificates with a responder, by what their origins ask.
	for _, o := range origins {
		if !strings.HasPrefix(o, verifier.Responder) {
			continue
		}
		item := &collateral.Item{Origin: o, Body: nvidiatest.Response(t, g.vendor.Identity.Cert, g.vendor.Root, g.vendor.Root, ocsp.Good, w.now())}
		if strings.HasSuffix(o, requestOf(t, g.vendor.Provisioner.Cert, g.vendor.Identity.Cert)) {
			item.Body = nvidiatest.Response(t, g.vendor.Provisioner.Cert, g.vendor.Identity, g.vendor.Identity, ocsp.Good, w.now())
		}
		g.answers = append(g.answers, item)
	}
	if len(g.answers) != 2 {
		t.Fatalf("origins %q", origins)
	}
	g.publish(g.lists...)
	g.publish(g.answers...)
	return g
}

// publish serves items as a mirror of all of NVIDIA's hosts does.
func (g *gpus) publish(items ...*collateral.Item) {
	for _, it := range items {
		g.pcs.PublishAt("/"+strings.TrimPrefix(it.Origin, "https://"), it.Body)
	}
}

func (g *gpus) nvidia(c *Config) {
	c.Vendors, c.URLs = []string{"nvidia"}, map[string]string{"nvidia": g.pcs.URL}
	c.nvidiaDevices, c.nvidiaManifests = []*x509.Certificate{g.vendor.Root.Cert}, []*x509.Certificate{g.manifest.Cert}
}

// attest has a verifier judge the evidence, and the fetcher hear what it misses.
func (g *gpus) attest(f *Fetcher, peer string) ([]*verify.Result, error) {
	g.t.Helper()
	v, err := verifier.New(verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{g.vendor.Root.Cert}, Collateral: g.shelf})
	if err != nil {
		g.t.Fatal(err)
	}
	return v.Verify(&verify.Input{
		Evidence: g.evidence, ReportData: nonce, Now: g.now(), Missing: func(m verify.Missing) { f.MissedBy(peer, m) },
	})
}

// TestNVIDIAsCollateral: what a verifier misses of a GPU's chain is fetched, checked and
// kept current, and the next attestation has it.
func TestNVIDIAsCollateral(t *testing.T) {
	g := newGPUs(t)
	f := g.start(g.nvidia)
	if _, err := g.attest(f, "192.0.2.1:1"); reasonOf(err) != verify.ReasonCollateralMissing {
		t.Fatalf("with nothing at hand: %v", err)
	}
	all := slices.Concat(g.lists, g.answers)
	g.until("lists and responses", func() bool {
		return !slices.ContainsFunc(all, func(it *collateral.Item) bool { return !g.has(it.Origin) })
	})
	out, err := g.attest(f, "192.0.2.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := out[0].Claims["x-nvidia-gpu-attestation-report-cert-chain"].(map[string]any); c["x-nvidia-cert-ocsp-status"] != "good" || c["coffer-revocation"] != "crl and ocsp" {
		t.Errorf("%v", c)
	}
	// Later issues are got without anybody who misses them.
	before := g.answers[0].Body
	g.pass(13 * time.Hour) // half of what was left until the next update
	g.answers[0].Body = again(g, g.answers[0].Origin)
	g.publish(g.answers[0])
	g.until("a later issue", func() bool {
		it, ok := g.shelf.Get(g.answers[0].Origin)
		return ok && string(it.Body) != string(before)
	})
	// What was fetched goes to another trustee in a bundle, with who has signed it.
	for _, it := range g.shelf.Items() {
		if len(it.Chain) == 0 {
			t.Errorf("%s: no issuers", it.Origin)
		}
	}
}

func again(g *gpus, origin string) []byte {
	if strings.HasSuffix(origin, requestOf(g.t, g.vendor.Provisioner.Cert, g.vendor.Identity.Cert)) {
		return nvidiatest.Response(g.t, g.vendor.Provisioner.Cert, g.vendor.Identity, g.vendor.Identity, ocsp.Good, g.now())
	}
	return nvidiatest.Response(g.t, g.vendor.Identity.Cert, g.vendor.Root, g.vendor.Root, ocsp.Good, g.now())
}

// TestNVIDIAsManifests: those need nobody's word about who signs them.
func TestNVIDIAsManifests(t *testing.T) {
	g := newGPUs(t)
	const origin = verifier.Manifests + "NV_GPU_DRIVER_GH100_580.95.05"
	p := nvidiatest.NewPublisher(t, g.manifest)
	golden := map[int][][]byte{1: {slices.Repeat([]byte{1}, 48)}}
	g.publish(&collateral.Item{Origin: origin, Body: p.Manifest(t, "GH100", "580.95.05", golden)})
	f := g.start(g.nvidia)
	f.MissedBy("192.0.2.1:1", verify.Missing{Origin: origin})
	g.until("the manifest", func() bool { return g.has(origin) })

	const other = verifier.Manifests + "NV_GPU_DRIVER_GH100_1.2.3"
	stranger := nvidiatest.NewPublisher(t, nvidiatest.New(t, nil, "Test Manifest CA", nil))
	g.publish(&collateral.Item{Origin: other, Body: stranger.Manifest(t, "GH100", "1.2.3", golden)})
	if err := f.Want(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	g.until("a refusal", func() bool { return g.count(OutcomeRefused) > 0 })
	if g.has(other) {
		t.Error("a manifest of another root's is kept")
	}
	for _, o := range []string{verifier.Manifests + "../x", verifier.Manifests + "NV_GPU_DRIVER_", verifier.Manifests + "NV_GPU_DRIVER_a/b", g.lists[0].Origin, g.answers[0].Origin} {
		if err := f.Want(t.Context(), o); err == nil {
			t.Errorf("an administrator wants %s", o)
		}
	}
}

// TestWhatNVIDIANeverPublished: each is asked for, refused, and not kept.
func TestWhatNVIDIANeverPublished(t *testing.T) {
	g := newGPUs(t)
	strangers := nvidiatest.NewVendor(t, "GH100", nil)
	list, answer := g.lists[0].Origin, g.answers[0].Origin
	chain := []*x509.Certificate{g.vendor.Root.Cert}
	of := g.vendor.Identity
	if strings.HasSuffix(answer, requestOf(t, g.vendor.Provisioner.Cert, g.vendor.Identity.Cert)) {
		of = g.vendor.Provisioner
	}
	issuers := map[*nvidiatest.CA][]*x509.Certificate{g.vendor.Identity: chain, g.vendor.Provisioner: {g.vendor.Identity.Cert, g.vendor.Root.Cert}}
	signer := map[*nvidiatest.CA]*nvidiatest.CA{g.vendor.Identity: g.vendor.Root, g.vendor.Provisioner: g.vendor.Identity}[of]
	for name, c := range map[string]struct {
		origin  string
		body    []byte
		issuers []*x509.Certificate
	}{
		"a list of another root's":          {list, strangers.Lists(t, g.now())[0].Body, []*x509.Certificate{strangers.Root.Cert}},
		"a list that its issuer signed not": {list, strangers.Lists(t, g.now())[0].Body, chain},
		"a list that is no list":            {list, []byte("<html>"), chain},
		"a list from long ago":              {list, g.vendor.Lists(t, g.now().AddDate(-1, 0, 0))[0].Body, chain},
		"a list of next year":               {list, g.vendor.Lists(t, g.now().AddDate(1, 0, 0))[0].Body, chain},
		"a response about another":          {answer, nvidiatest.Response(t, strangers.Identity.Cert, signer, signer, ocsp.Good, g.now()), issuers[of]},
		"a response of a stranger":          {answer, nvidiatest.Response(t, of.Cert, strangers.Root, strangers.Root, ocsp.Good, g.now()), issuers[of]},
		"a responder that knows nothing":    {answer, nvidiatest.Response(t, of.Cert, signer, signer, ocsp.Unknown, g.now()), issuers[of]},
		"another issuer's question":         {answer, nvidiatest.Response(t, of.Cert, signer, signer, ocsp.Good, g.now()), []*x509.Certificate{g.vendor.Provisioner.Cert, g.vendor.Identity.Cert, g.vendor.Root.Cert}},
		"issuers that break off":            {answer, nvidiatest.Response(t, of.Cert, signer, signer, ocsp.Good, g.now()), []*x509.Certificate{g.vendor.Provisioner.Cert}},
	} {
		t.Run(name, func(t *testing.T) {
			g := &gpus{world: newWorld(t), vendor: g.vendor, manifest: g.manifest}
			g.pass(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC).Sub(g.day))
			g.publish(&collateral.Item{Origin: c.origin, Body: c.body})
			f := g.start(g.nvidia)
			f.MissedBy("192.0.2.1:1", verify.Missing{Origin: c.origin, Issuers: c.issuers})
			g.until("a refusal", func() bool { return g.count(OutcomeRefused) > 0 })
			if g.has(c.origin) {
				t.Error("it is kept")
			}
		})
	}
	// A revoked certificate's list and response are the truth, and kept.
	g = newGPUs(t)
	g.publish(g.vendor.Lists(t, g.now(), g.vendor.Identity.Cert, g.vendor.Provisioner.Cert)...)
	f := g.start(g.nvidia)
	_, _ = g.attest(f, "192.0.2.1:1")
	g.until("the list", func() bool { return g.has(g.lists[0].Origin) && g.has(g.lists[1].Origin) })
	if _, err := g.attest(f, "192.0.2.1:1"); reasonOf(err) != verifier.ReasonRevoked {
		t.Errorf("revoked: %v", err)
	}
}

// TestNVIDIAsBadDays: nobody waits, and nothing comes of them.
func TestNVIDIAsBadDays(t *testing.T) {
	for name, c := range map[string]struct {
		mood    fetchtest.Mood
		outcome string
	}{"hung": {fetchtest.Hung, OutcomeFailed}, "huge": {fetchtest.Huge, OutcomeRefused}, "limited": {fetchtest.Limited, OutcomeLimited}} {
		t.Run(name, func(t *testing.T) {
			g := newGPUs(t)
			g.pcs.Feel(c.mood, "0")
			f := g.start(g.nvidia, func(c *Config) { c.Timeout = 200 * time.Millisecond })
			begun := time.Now()
			_, err := g.attest(f, "192.0.2.1:1")
			if reasonOf(err) != verify.ReasonCollateralMissing || time.Since(begun) > 5*time.Second {
				t.Errorf("after %s: %v", time.Since(begun), err)
			}
			g.until(c.outcome, func() bool { return g.count(c.outcome) > 0 })
			if n := len(g.shelf.Items()); n > 0 {
				t.Errorf("%d items", n)
			}
			g.pcs.Feel(fetchtest.Well, "")
			g.until("a better day", func() bool { return g.has(g.lists[0].Origin) })
		})
	}
}

// TestIssuersOfOthers: who has a document asked for under issuers of his own keeps it
// from nobody.
func TestIssuersOfOthers(t *testing.T) {
	g := newGPUs(t)
	f := g.start(g.nvidia)
	strangers := nvidiatest.NewVendor(t, "GH100", nil)
	f.MissedBy("192.0.2.66:1", verify.Missing{Origin: g.lists[0].Origin, Issuers: []*x509.Certificate{strangers.Root.Cert}})
	g.until("a refusal", func() bool { return g.count(OutcomeRefused) > 0 })
	g.pass(rememberWant)
	if _, err := g.attest(f, "192.0.2.1:1"); reasonOf(err) != verify.ReasonCollateralMissing {
		t.Fatal(err)
	}
	g.until("the list", func() bool { return g.has(g.lists[0].Origin) })
}

// requestOf is the end of an origin that asks about a certificate.
func requestOf(t testing.TB, c, issuer *x509.Certificate) string {
	t.Helper()
	raw, err := ocsp.CreateRequest(c, issuer, nil)
	if err != nil {
		t.Fatal(err)
	}
	return url.PathEscape(base64Std(raw))
}

type tripper func(*http.Request) (*http.Response, error)

func (t tripper) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

// TestListsOfHostsWithoutTLS: a list is got without TLS where its host has none, and what
// tells more than whose list it is never.
func TestListsOfHostsWithoutTLS(t *testing.T) {
	g := newGPUs(t)
	f, err := New(g.config(g.nvidia, func(c *Config) { c.URLs = nil }))
	if err != nil {
		t.Fatal(err)
	}
	w := f.workers[0]
	var asked []string
	w.client.http.Transport = tripper(func(r *http.Request) (*http.Response, error) {
		asked = append(asked, r.URL.String())
		if r.URL.Scheme == "https" {
			return nil, errors.New("no TLS here")
		}
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(g.lists[0].Body))}, nil
	})
	it, a := w.get(t.Context(), g.lists[0].Origin, []byte("issuers"))
	if a.outcome != "" || it.Origin != g.lists[0].Origin || string(it.Chain) != "issuers" {
		t.Errorf("%+v, %+v", it, a)
	}
	if want := []string{g.lists[0].Origin, strings.Replace(g.lists[0].Origin, "https", "http", 1)}; !slices.Equal(asked, want) {
		t.Errorf("asked %q", asked)
	}
	asked = nil
	if _, a := w.get(t.Context(), g.answers[0].Origin, nil); a.outcome != OutcomeFailed || len(asked) != 1 {
		t.Errorf("a responder: %+v, asked %q", a, asked)
	}
}

func TestHostsOfTPMMakers(t *testing.T) {
	for _, h := range []string{"", "a/b", "host:443", "https://host", "user@host", "Host", "a b"} {
		if _, err := makersPlaces([]string{h}); err == nil {
			t.Errorf("%q is taken", h)
		}
	}
	if p, err := makersPlaces([]string{"lists.example"}); err != nil || !slices.Contains(p, "https://lists.example/") {
		t.Errorf("%q, %v", p, err)
	}
	w := newWorld(t)
	if _, err := New(w.config(func(c *Config) { c.TPMHosts = []string{"lists.example"} })); err == nil {
		t.Error("hosts are taken of which nothing is fetched")
	}
}
