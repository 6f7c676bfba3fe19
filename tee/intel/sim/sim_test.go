package sim

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/intel"
	"github.com/cofferproject/coffer/tee/intel/quote"
	"github.com/cofferproject/coffer/tee/verify"
)

var day = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func machine(t *testing.T, o Options) *Platform {
	t.Helper()
	o.Now = day
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func verifier(t *testing.T, p *Platform, o CollateralOptions, allow ...string) *intel.Verifier {
	t.Helper()
	items, err := p.Collateral(o)
	if err != nil {
		t.Fatal(err)
	}
	v, err := intel.New(verify.Config{
		Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{p.Root()}, AllowUnproven: allow, Collateral: collateral.NewSet(items...),
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Every kind of quote verifies with the machine's own collateral, also after the
// machine came back from disk.
func TestQuotes(t *testing.T) {
	for _, processor := range []bool{false, true} {
		p := machine(t, Options{Processor: processor})
		b, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Load(b)
		if err != nil {
			t.Fatal(err)
		}
		v := verifier(t, p, CollateralOptions{}, intel.UnprovenSGXv4, intel.UnprovenSGXv5, intel.UnprovenTDXv5TD10)
		for _, m := range []*Platform{p, again} {
			td, e := m.TD(), m.Enclave()
			td15 := m.TD()
			td15.V15 = &quote.TD15{TCBSVN2: td15.TCBSVN}
			for name, c := range map[string]struct {
				make func() ([]byte, error)
				tee  uint32
			}{
				"TDX v4":       {func() ([]byte, error) { return m.QuoteTD(&td, 4) }, quote.TDX},
				"TDX v5":       {func() ([]byte, error) { return m.QuoteTD(&td, 5) }, quote.TDX},
				"TDX v5 (1.5)": {func() ([]byte, error) { return m.QuoteTD(&td15, 5) }, quote.TDX},
				"SGX v3":       {func() ([]byte, error) { return m.QuoteEnclave(&e, 3) }, quote.SGX},
				"SGX v4":       {func() ([]byte, error) { return m.QuoteEnclave(&e, 4) }, quote.SGX},
				"SGX v5":       {func() ([]byte, error) { return m.QuoteEnclave(&e, 5) }, quote.SGX},
			} {
				raw, err := c.make()
				if err != nil {
					t.Fatal(name, err)
				}
				r, err := v.VerifyQuote(raw, c.tee, day)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				if r.Status != intel.StatusUpToDate || r.Claims["collateral_expiration_status"] != "0" || (r.Claims["platform_instance_id"] == nil) != processor {
					t.Errorf("%s: %v", name, r.Claims)
				}
			}
		}
	}
}

func TestStatus(t *testing.T) {
	p := machine(t, Options{})
	td := p.TD()
	raw, err := p.QuoteTD(&td, 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o      CollateralOptions
		want   intel.Status
		reason denial.Reason
	}{
		{o: CollateralOptions{Platform: intel.StatusSWHardeningNeeded, Advisories: []string{"INTEL-SA-00001"}}, want: intel.StatusSWHardeningNeeded},
		{o: CollateralOptions{Platform: intel.StatusConfigurationNeeded}, want: intel.StatusConfigurationNeeded},
		{o: CollateralOptions{Module: intel.StatusOutOfDate}, want: intel.StatusOutOfDate},
		{o: CollateralOptions{QE: intel.StatusOutOfDate, Platform: intel.StatusConfigurationNeeded}, want: intel.StatusOutOfDateConfiguration},
		{o: CollateralOptions{Platform: intel.StatusOutOfDate}, want: intel.StatusOutOfDate},
		{o: CollateralOptions{Platform: intel.StatusRevoked}, reason: intel.ReasonTCBRevoked},
		{o: CollateralOptions{Module: intel.StatusRevoked}, reason: intel.ReasonTCBRevoked},
		{o: CollateralOptions{QE: intel.StatusRevoked}, reason: intel.ReasonTCBRevoked},
		{o: CollateralOptions{Platform: "Splendid"}, reason: verify.ReasonCollateralMalformed},
		{o: CollateralOptions{AboveMachine: true}, reason: intel.ReasonTCBUnsupported},
		{o: CollateralOptions{RevokePCK: true}, reason: intel.ReasonPCKRevoked},
		{o: CollateralOptions{RevokeCA: true}, reason: intel.ReasonPCKRevoked},
		{o: CollateralOptions{RevokeSigner: true}, reason: intel.ReasonSignerRevoked},
		{o: CollateralOptions{Life: time.Hour, Now: day.Add(-2 * time.Hour)}, reason: verify.ReasonCollateralExpired},
		{o: CollateralOptions{Now: day.Add(time.Hour)}, reason: intel.ReasonCollateralFuture},
	} {
		r, err := verifier(t, p, c.o).VerifyQuote(raw, quote.TDX, day)
		if c.reason != "" {
			if d, ok := denial.As(err); !ok || d.Reason != c.reason {
				t.Errorf("%+v: %v, want %s", c.o, err, c.reason)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", c.o, err)
		} else if r.Status != c.want || len(r.Claims["advisory_ids"].([]any)) != len(c.o.Advisories) {
			t.Errorf("%+v: %s, %v", c.o, r.Status, r.Claims["advisory_ids"])
		}
	}
}

// A TD that was launched under an old TDX module, which was replaced since.
func TestRelaunch(t *testing.T) {
	p := machine(t, Options{})
	td := p.TD()
	td.V15 = &quote.TD15{TCBSVN2: td.TCBSVN}
	td.V15.TCBSVN2[0]++
	raw, err := p.QuoteTD(&td, 5)
	if err != nil {
		t.Fatal(err)
	}
	td.V15.TCBSVN2 = td.TCBSVN
	old, err := p.QuoteTD(&td, 5)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		raw     []byte
		o       CollateralOptions
		allow   []string
		want    intel.Status
		current any
	}{
		{raw, CollateralOptions{NewerModule: true}, nil, intel.StatusOutOfDate, nil},
		{raw, CollateralOptions{NewerModule: true}, []string{intel.UnprovenRelaunch}, intel.StatusRelaunchAdvised, "UpToDate"},
		{raw, CollateralOptions{NewerModule: true, Platform: intel.StatusConfigurationNeeded}, []string{intel.UnprovenRelaunch}, intel.StatusRelaunchConfiguration, "ConfigurationNeeded"},
		{raw, CollateralOptions{NewerModule: true, QE: intel.StatusOutOfDate}, []string{intel.UnprovenRelaunch}, intel.StatusOutOfDate, "OutOfDate"},
		{raw, CollateralOptions{NewerModule: true, Platform: intel.StatusOutOfDate}, []string{intel.UnprovenRelaunch}, intel.StatusOutOfDate, "OutOfDate"},
		{raw, CollateralOptions{}, []string{intel.UnprovenRelaunch}, intel.StatusUpToDate, "UpToDate"},
		{old, CollateralOptions{NewerModule: true}, []string{intel.UnprovenRelaunch}, intel.StatusOutOfDate, "OutOfDate"},
	} {
		r, err := verifier(t, p, c.o, c.allow...).VerifyQuote(c.raw, quote.TDX, day)
		if err != nil {
			t.Errorf("%+v: %v", c.o, err)
			continue
		}
		if r.Status != c.want || r.Claims["tcb_status"] != string(c.want) || r.Claims["tcb_status_current"] != c.current || len(r.Unproven) != len(c.allow) {
			t.Errorf("%+v: %s, now %v, unproven %v; want %s, %v", c.o, r.Status, r.Claims["tcb_status_current"], r.Unproven, c.want, c.current)
		}
	}
}

// Without revocation lists, where that was asked for, there are no claims of them.
func TestSkipRevocation(t *testing.T) {
	p := machine(t, Options{})
	items, err := p.Collateral(CollateralOptions{RevokePCK: true})
	if err != nil {
		t.Fatal(err)
	}
	var some []*collateral.Item
	for _, it := range items {
		if len(it.Chain) > 0 && it.Body[0] == '{' {
			some = append(some, it)
		}
	}
	cfg := verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{p.Root()}, Collateral: collateral.NewSet(some...)}
	td := p.TD()
	raw, err := p.QuoteTD(&td, 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, skip := range []bool{false, true} {
		cfg.InsecureSkipRevocation = skip
		v, err := intel.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r, err := v.VerifyQuote(raw, quote.TDX, day)
		if d, ok := denial.As(err); !skip && (!ok || d.Reason != verify.ReasonCollateralMissing) {
			t.Errorf("got %v", err)
		}
		if skip && (err != nil || r.Claims["pck_crl_num"] != nil) {
			t.Errorf("skipped: %v", err)
		}
	}
}
