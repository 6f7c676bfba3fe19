package verifier

import (
	"bytes"
	"context"
	"crypto/x509"
	"math/big"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	gsgtest "github.com/google/go-sev-guest/verify/testdata"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/snp"
	"github.com/cofferproject/coffer/tee/snp/sim"
	"github.com/cofferproject/coffer/tee/verify"
)

var authority = sync.OnceValues(func() (*sim.Authority, error) { return sim.NewAuthority(vectorTime) })

// played gives a report of a simulated chip, and a production verifier that is
// made to take its root for a vendor's: the way that real chips go.
func played(t testing.TB, cfg verify.Config) (v *Reports, a *sim.Authority, chip *sim.Chip, raw []byte) {
	t.Helper()
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	if chip, err = a.Chip(sim.Genoa, sim.Genoa.DefaultTCB(), vectorTime); err != nil {
		t.Fatal(err)
	}
	m, err := chip.Launch(sim.Guest{Policy: 0x30000})
	if err != nil {
		t.Fatal(err)
	}
	if raw, _, err = m.Report(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if v, err = NewReports(cfg, component); err != nil {
		t.Fatal(err)
	}
	v.anchors = []*anchor{{product: Genoa, ark: a.Root(), ask: a.SigningKey(), asvk: a.SigningKey()}}
	return v, a, chip, raw
}

// In production the vendor's list is wanted under its published name.
func TestRevocationInProduction(t *testing.T) {
	const origin = "https://kdsintf.amd.com/vcek/v1/Genoa/crl"
	_, a, _, _ := played(t, verify.Config{Kind: verify.Production})
	list := func(origin string, revoked ...*big.Int) collateral.Source {
		b, err := a.CRL(vectorTime.Add(-time.Hour), vectorTime.Add(time.Hour), revoked...)
		if err != nil {
			t.Fatal(err)
		}
		return collateral.NewSet(&collateral.Item{Origin: origin, Body: b, Fetched: vectorTime})
	}
	for name, c := range map[string]struct {
		src    collateral.Source
		skip   bool
		reason denial.Reason
	}{
		"none":                          {nil, false, verify.ReasonCollateralMissing},
		"none, skipped":                 {nil, true, ""},
		"of VLEKs":                      {list("https://kdsintf.amd.com/vlek/v1/Genoa/crl"), false, verify.ReasonCollateralMissing},
		"of simulated hardware":         {list(SimulatedCRLOrigin(a.Root())), false, verify.ReasonCollateralMissing},
		"good":                          {list(origin), false, ""},
		"names another":                 {list(origin, big.NewInt(77)), false, ""},
		"names the ASK":                 {list(origin, a.SigningKey().SerialNumber), false, ReasonCertificateRevoked},
		"names the ASK, though skipped": {list(origin, a.SigningKey().SerialNumber), true, ReasonCertificateRevoked},
	} {
		v, _, chip, raw := played(t, verify.Config{Kind: verify.Production, Collateral: c.src, InsecureSkipRevocation: c.skip})
		for range 2 { // the second time from the cache
			if _, err := v.Verify(raw, chip.Certs(), vectorTime, new(verify.Result)); reason(err) != c.reason || (err == nil) != (c.reason == "") {
				t.Errorf("%s: %v, want %q", name, err, c.reason)
			}
		}
	}
}

// A cached chain does not outlive its certificates or a new list.
func TestCacheKeepsNoVerdict(t *testing.T) {
	v, a, chip, raw := played(t, verify.Config{Kind: verify.Production, InsecureSkipRevocation: true})
	if _, err := v.Verify(raw, chip.Certs(), vectorTime, new(verify.Result)); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(raw, chip.Certs(), vectorTime.AddDate(8, 0, 0), new(verify.Result)); reason(err) != ReasonCertificateExpired {
		t.Errorf("later: %v", err)
	}
	certs := chip.Certs()
	certs[2] = snp.Cert{Type: snp.CertARK, Data: certs[1].Data}
	if _, err := v.Verify(raw, certs, vectorTime, new(verify.Result)); reason(err) != ReasonChainUntrusted {
		t.Errorf("another ARK beside a known leaf: %v", err)
	}
	b, err := a.CRL(vectorTime.Add(-time.Hour), vectorTime.Add(time.Hour), a.SigningKey().SerialNumber)
	if err != nil {
		t.Fatal(err)
	}
	v.cfg.Collateral = collateral.NewSet(&collateral.Item{Origin: CRLOrigin(Genoa, false), Body: b, Fetched: vectorTime})
	if _, err := v.Verify(raw, chip.Certs(), vectorTime, new(verify.Result)); reason(err) != ReasonCertificateRevoked {
		t.Errorf("new list: %v", err)
	}
}

func TestNoDefaultTrust(t *testing.T) {
	as, err := vendorAnchors()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]verify.Config{
		"no choice":                    {},
		"simulated root in production": {Kind: verify.Production, SimulatedRoots: []*x509.Certificate{as[0].ark}},
		"vendor root in simulation":    {Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{as[0].ark}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOrigins(t *testing.T) {
	e, err := snp.Parse(read(t, "as", "evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	with := Origins(read(t, "as", "evidence.json"))
	if !slices.Equal(with, []string{"https://kdsintf.amd.com/vcek/v1/Genoa/crl"}) {
		t.Errorf("got %v", with)
	}
	e.Certs = nil
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := "https://kdsintf.amd.com/vcek/v1/Genoa/371c55d6d15cb50f16dc31d39a24e300caaabff4431e841111429b73ec45ad67ea6e687ffae7bf84b54a5d0e6d79b3ef6ff0bd8b4cff94c2163af5c5de8718e8?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=25"
	if got := Origins(b); len(got) != 2 || got[0] != want {
		t.Errorf("got %v", got)
	}
	if got := Origins([]byte("x")); got != nil {
		t.Errorf("got %v", got)
	}
}

func TestConcurrentUse(t *testing.T) {
	v, in := benchVerifier(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 4 {
				if _, err := v.Verify(in); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzVerify(f *testing.F) {
	r, err := snp.ParseReport(gsgtest.AttestationBytes)
	if err != nil {
		f.Fatal(err)
	}
	b, err := (&snp.Evidence{Report: r, Certs: []snp.Cert{{Type: snp.CertVCEK, Data: gsgtest.VcekBytes}}}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{}`))
	if _, err := os.Stat("../../../../shared/vectors/as"); err == nil {
		f.Add(read(f, "as", "evidence.json"))
	}
	v, err := New(verify.Config{Kind: verify.Production, InsecureSkipRevocation: true, AllowUnproven: []string{UnprovenV4, UnprovenV5, UnprovenTurin, UnprovenVLEK}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := v.Verify(&verify.Input{Evidence: b, ReportData: make([]byte, 48), Now: vectorTime})
		if d, ok := denial.As(err); !ok || d.Component == "" || d.Claim == "" {
			t.Errorf("not a denial, or one without component or claim: %v", err)
		}
	})
}

func FuzzParseLeaf(f *testing.F) {
	f.Add(gsgtest.VcekBytes, false)
	if _, err := os.Stat("../../../../shared/vectors/snp"); err == nil {
		for _, n := range []string{"test-vcek.der", "vcek_milan.der", "vcek_turin.der", "test-vcek-invalid-legacy.der"} {
			f.Add(read(f, "snp", n), false)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, vlek bool) {
		l, err := parseLeaf(b, vlek)
		if err == nil && (l.key == nil || l.product == "" || !vlek && bytes.Equal(l.hwid, nil)) {
			t.Fatalf("%+v", l)
		}
	})
}
