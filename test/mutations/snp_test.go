package mutations

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/snp"
	"github.com/cofferproject/coffer/tee/snp/sim"
	"github.com/cofferproject/coffer/tee/snp/verifier"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
)

var snpNow = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// Two machines; RSA-4096 keys take their time.
var (
	snpMachine = sync.OnceValues(func() (*sim.Authority, error) { return sim.NewAuthority(snpNow) })
	snpOther   = sync.OnceValues(func() (*sim.Authority, error) { return sim.NewAuthority(snpNow) })
)

// snpFields lists every part of the evidence, with what a flip there is denied
// with.
func snpFields(certs int) []Field {
	r := func(name ...any) snpPath { return append(snpPath{"attestation_report"}, name...) }
	const sig, malformed = verifier.ReasonSignature, verifier.ReasonMalformed
	fs := []Field{
		snpField(4, r("version"), malformed, verifier.ReasonVersion),
		snpField(4, r("guest_svn"), sig), snpField(8, r("policy"), sig), snpField(0, r("family_id"), sig), snpField(0, r("image_id"), sig),
		snpField(4, r("vmpl"), sig), snpField(4, r("sig_algo"), verifier.ReasonSigningKey), snpField(8, r("plat_info"), sig),
		snpField(4, r("key_info"), sig, verifier.ReasonSigningKey), snpField(0, r("report_data"), sig), snpField(0, r("measurement"), sig),
		snpField(0, r("host_data"), sig), snpField(0, r("id_key_digest"), sig), snpField(0, r("author_key_digest"), sig),
		snpField(0, r("report_id"), sig), snpField(0, r("report_id_ma"), sig), snpField(0, r("chip_id"), verifier.ReasonChipID),
		snpField(1, r("cpuid_fam_id"), verifier.ReasonProduct), snpField(1, r("cpuid_mod_id"), sig, verifier.ReasonProduct), snpField(1, r("cpuid_step"), sig),
		snpField(0, r("signature", "r"), sig), snpField(0, r("signature", "s"), sig),
	}
	for _, t := range []struct {
		name   string
		reason denial.Reason
	}{{"current_tcb", sig}, {"reported_tcb", verifier.ReasonTCBMismatch}, {"committed_tcb", sig}, {"launch_tcb", sig}} {
		for _, part := range []string{"bootloader", "tee", "snp", "microcode"} {
			fs = append(fs, snpField(1, r(t.name, part), t.reason))
		}
	}
	for _, f := range []string{"current", "committed"} {
		for _, part := range []string{"major", "minor", "build"} {
			fs = append(fs, snpField(1, r(f, part), sig))
		}
	}
	for i := range certs {
		f := snpField(0, snpPath{"cert_chain", i, "data"}, verifier.ReasonCertificateMalformed, verifier.ReasonChainUntrusted)
		f.Every = 7
		fs = append(fs, f)
	}
	return fs
}

// snpGuest is a simulated guest whose evidence the tables bend.
type snpGuest struct {
	a        *sim.Authority
	chip     *sim.Chip
	report   *snp.Report
	initdata []byte
	nonce    []byte
}

func newSNPGuest(t testing.TB, g sim.Generation) *snpGuest {
	t.Helper()
	a, err := snpMachine()
	if err != nil {
		t.Fatal(err)
	}
	chip, err := a.Chip(g, g.DefaultTCB(), snpNow)
	if err != nil {
		t.Fatal(err)
	}
	x := &snpGuest{a: a, chip: chip, nonce: bytes.Repeat([]byte{7}, 48)}
	if x.initdata, err = initdata.Build(&initdata.Document{Version: "0.1.0", Algorithm: "sha256", Data: map[string]string{"policy.toml": "a = 1\n"}}); err != nil {
		t.Fatal(err)
	}
	sum, err := initdata.Digest("sha256", x.initdata)
	if err != nil {
		t.Fatal(err)
	}
	m, err := chip.Launch(sim.Guest{Digest: [48]byte{1}, HostData: [32]byte(sum), Policy: snp.Policy(launch.DefaultSNPPolicy)})
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := m.Report(context.Background(), x.nonce)
	if err != nil {
		t.Fatal(err)
	}
	if x.report, err = snp.ParseReport(raw); err != nil {
		t.Fatal(err)
	}
	return x
}

// evidence encodes the guest's report, changed and signed again by the chip.
func (x *snpGuest) evidence(t testing.TB, certs []snp.Cert, change func(*snp.Report)) json.RawMessage {
	t.Helper()
	r := *x.report
	if change != nil {
		change(&r)
	}
	raw, err := x.chip.Sign(&r)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := snp.ParseReport(raw)
	if err != nil {
		t.Fatal(err)
	}
	b, err := (&snp.Evidence{Report: signed, Certs: certs, Simulation: sim.Note("00", "EPYC-v4")}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (x *snpGuest) input(t testing.TB) *verify.Input {
	return &verify.Input{Evidence: x.evidence(t, x.chip.Certs(), nil), ReportData: x.nonce, Initdata: x.initdata, Now: snpNow}
}

func (x *snpGuest) verifier(t testing.TB, change func(*verify.Config)) verify.Verifier {
	t.Helper()
	cfg := verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{x.a.Root()}}
	if change != nil {
		change(&cfg)
	}
	v, err := verifier.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// crl makes collateral with a revocation list of a's root, under of's name.
func (x *snpGuest) crl(t testing.TB, a *sim.Authority, from, until time.Time, revoked ...*big.Int) func(*verify.Config) {
	t.Helper()
	b, err := a.CRL(from, until, revoked...)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *verify.Config) {
		c.Collateral = collateral.NewSet(&collateral.Item{Origin: verifier.SimulatedCRLOrigin(x.a.Root()), Body: b, Fetched: from})
	}
}

// bentCRL is a current list of the root that revokes a stranger and is changed
// before it is signed.
func (x *snpGuest) bentCRL(t testing.TB, bend func(*x509.RevocationList)) func(*verify.Config) {
	t.Helper()
	l := &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: snpNow.Add(-time.Hour), NextUpdate: snpNow.Add(time.Hour), SignatureAlgorithm: x509.SHA384WithRSAPSS,
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(77), RevocationTime: snpNow}},
	}
	bend(l)
	b, err := x.a.SignCRL(l)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *verify.Config) {
		c.Collateral = collateral.NewSet(&collateral.Item{Origin: verifier.SimulatedCRLOrigin(x.a.Root()), Body: b, Fetched: snpNow})
	}
}

func TestSNPSimulated(t *testing.T) {
	x := newSNPGuest(t, sim.Genoa)
	other, err := snpOther()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Chip(sim.Genoa, sim.Genoa.DefaultTCB(), snpNow)
	if err != nil {
		t.Fatal(err)
	}
	// leaf gives the chain with another certificate of the chip's key.
	leaf := func(change func(*sim.Leaf)) []snp.Cert {
		l := sim.Leaf{Product: "Genoa", TCB: x.chip.TCB, HWID: x.chip.ID[:], NotBefore: snpNow.Add(-time.Hour), NotAfter: snpNow.Add(time.Hour)}
		change(&l)
		der, err := x.a.Issue(l, x.chip.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		certs := x.chip.Certs()
		certs[0].Data = der
		if l.CSP != "" {
			certs[0].Type = snp.CertVLEK
		}
		return certs
	}
	report := func(change func(*snp.Report)) func(testing.TB, *verify.Input) {
		return func(t testing.TB, in *verify.Input) { in.Evidence = x.evidence(t, x.chip.Certs(), change) }
	}
	chain := func(certs []snp.Cert) func(testing.TB, *verify.Input) {
		return func(t testing.TB, in *verify.Input) { in.Evidence = x.evidence(t, certs, nil) }
	}
	vlek := func(r *snp.Report) { r.KeyInfo = snp.KeyVLEK << 2 }
	swapped := func(k int) []snp.Cert {
		c := x.chip.Certs()
		c[k] = foreign.Certs()[k]
		return c
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := x.a.Issue(sim.Leaf{Product: "Genoa", TCB: x.chip.TCB, HWID: x.chip.ID[:], NotBefore: snpNow.Add(-time.Hour), NotAfter: snpNow.Add(time.Hour)}, &p256.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	hour := time.Hour
	Run(t, Suite{
		Verifier: x.verifier(t, x.crl(t, x.a, snpNow.Add(-hour), snpNow.Add(hour))),
		Good:     func(t testing.TB) *verify.Input { return x.input(t) },
		Fields:   snpFields(3),
		Cases: []Case{
			{Name: "wrong nonce", Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = bytes.Repeat([]byte{8}, 48) }, Reason: verify.ReasonReportData},
			{Name: "wrong initdata", Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = append(slices.Clone(in.Initdata), '\n') }, Reason: verify.ReasonInitdataMismatch},
			{Name: "no initdata", Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = nil }, Reason: verify.ReasonInitdataMissing},
			{Name: "initdata and a zero register", Mutate: report(func(r *snp.Report) { clear(r.HostData[:]) }), Reason: verify.ReasonInitdataUnexpected},
			{Name: "initdata that is none", Mutate: func(t testing.TB, in *verify.Input) {
				in.Initdata = []byte("not a document")
				sum, err := initdata.Digest("sha256", in.Initdata)
				if err != nil {
					t.Fatal(err)
				}
				in.Evidence = x.evidence(t, x.chip.Certs(), func(r *snp.Report) { r.HostData = [32]byte(sum) })
			}, Reason: verify.ReasonInitdataMalformed},

			{Name: "revoked ASK", Verifier: x.verifier(t, x.crl(t, x.a, snpNow.Add(-hour), snpNow.Add(hour), x.a.SigningKey().SerialNumber)), Reason: verifier.ReasonCertificateRevoked},
			{Name: "revoked ARK", Verifier: x.verifier(t, x.crl(t, x.a, snpNow.Add(-hour), snpNow.Add(hour), x.a.Root().SerialNumber)), Reason: verifier.ReasonCertificateRevoked},
			{Name: "old revocation list", Verifier: x.verifier(t, x.crl(t, x.a, snpNow.Add(-2*hour), snpNow.Add(-hour))), Reason: verify.ReasonCollateralExpired},
			{Name: "revocation list of tomorrow", Verifier: x.verifier(t, x.crl(t, x.a, snpNow.Add(hour), snpNow.Add(2*hour))), Reason: verify.ReasonCollateralExpired},
			{Name: "another root's revocation list", Verifier: x.verifier(t, x.crl(t, other, snpNow.Add(-hour), snpNow.Add(hour))), Reason: verify.ReasonCollateralUntrusted},
			{Name: "revocation list with an unknown critical extension", Verifier: x.verifier(t, x.bentCRL(t, criticalList)), Reason: verify.ReasonCollateralUnsupported},
			{Name: "revocation list with an unknown critical entry extension", Verifier: x.verifier(t, x.bentCRL(t, criticalEntry)), Reason: verify.ReasonCollateralUnsupported},
			{Name: "indirect revocation list", Verifier: x.verifier(t, x.bentCRL(t, indirectList)), Reason: verify.ReasonCollateralUnsupported},
			{Name: "revocation list that is none", Verifier: x.verifier(t, func(c *verify.Config) {
				c.Collateral = collateral.NewSet(&collateral.Item{Origin: verifier.SimulatedCRLOrigin(x.a.Root()), Body: []byte("x"), Fetched: snpNow})
			}), Reason: verify.ReasonCollateralMalformed},

			{Name: "expired VCEK", Mutate: chain(leaf(func(l *sim.Leaf) { l.NotAfter = snpNow.Add(-time.Minute) })), Reason: verifier.ReasonCertificateExpired},
			{Name: "VCEK of tomorrow", Mutate: chain(leaf(func(l *sim.Leaf) { l.NotBefore = snpNow.Add(time.Minute) })), Reason: verifier.ReasonCertificateExpired},
			{Name: "expired root", Mutate: func(_ testing.TB, in *verify.Input) { in.Now = snpNow.AddDate(30, 0, 0) }, Reason: verifier.ReasonCertificateExpired},
			{Name: "another machine's chain", Mutate: chain(foreign.Certs()), Reason: verifier.ReasonChainUntrusted},
			{Name: "another machine's VCEK", Mutate: chain(swapped(0)), Reason: verifier.ReasonChainUntrusted},
			{Name: "another machine's ASK", Mutate: chain(swapped(1)), Reason: verifier.ReasonChainUntrusted},
			{Name: "another machine's ARK", Mutate: chain(swapped(2)), Reason: verifier.ReasonChainUntrusted},
			{Name: "a root that is not trusted", Verifier: x.verifier(t, func(c *verify.Config) { c.SimulatedRoots = []*x509.Certificate{other.Root()} }), Reason: verifier.ReasonChainUntrusted},
			{Name: "no roots", Verifier: x.verifier(t, func(c *verify.Config) { c.SimulatedRoots = nil }), Reason: verifier.ReasonChainUntrusted},
			{Name: "no chain", Mutate: chain(nil), Reason: verifier.ReasonCertificateMissing},
			{Name: "no ASK", Mutate: chain(x.chip.Certs()[:1]), Reason: verifier.ReasonChainUntrusted},
			{Name: "two VCEKs", Mutate: chain(append(x.chip.Certs(), x.chip.Certs()[0])), Reason: verifier.ReasonCertificateMalformed},
			{Name: "two ASKs", Mutate: chain(append(x.chip.Certs(), x.chip.Certs()[1])), Reason: verifier.ReasonChainUntrusted},
			{Name: "the ASK as VCEK", Mutate: chain([]snp.Cert{{Type: snp.CertVCEK, Data: x.chip.Certs()[1].Data}, x.chip.Certs()[1], x.chip.Certs()[2]}), Reason: verifier.ReasonCertificateMalformed},
			{Name: "a VCEK on P-256", Mutate: chain([]snp.Cert{{Type: snp.CertVCEK, Data: weak}, x.chip.Certs()[1], x.chip.Certs()[2]}), Reason: verifier.ReasonCertificateMalformed},
			{Name: "no chip id in the VCEK", Mutate: chain(leaf(func(l *sim.Leaf) { l.HWID = nil })), Reason: verifier.ReasonCertificateMalformed},
			{Name: "another chip id in the VCEK", Mutate: chain(leaf(func(l *sim.Leaf) { l.HWID = bytes.Repeat([]byte{1}, 64) })), Reason: verifier.ReasonChipID},
			{Name: "another product in the VCEK", Mutate: chain(leaf(func(l *sim.Leaf) { l.Product = "Milan" })), Reason: verifier.ReasonProduct},
			{Name: "an older TCB in the VCEK", Mutate: chain(leaf(func(l *sim.Leaf) { l.TCB.SNP-- })), Reason: verifier.ReasonTCBMismatch},
			{Name: "a VLEK under a VCEK's name", Mutate: chain(func() []snp.Cert {
				c := leaf(func(l *sim.Leaf) { l.HWID, l.CSP = nil, "a cloud" })
				c[0].Type = snp.CertVCEK
				return c
			}()), Reason: verifier.ReasonCertificateMalformed},

			{Name: "old reported TCB", Mutate: report(func(r *snp.Report) { r.ReportedTCB.Microcode-- }), Reason: verifier.ReasonTCBMismatch},
			{Name: "masked chip id", Mutate: report(func(r *snp.Report) { clear(r.ChipID[:]); r.KeyInfo |= 2 }), Reason: verifier.ReasonChipID},
			{Name: "committed TCB above current", Mutate: report(func(r *snp.Report) { r.CommittedTCB.SNP++ }), Reason: verifier.ReasonTCBOrder},
			{Name: "reported TCB above current", Mutate: report(func(r *snp.Report) { r.CurrentTCB.Microcode--; r.CommittedTCB.Microcode-- }), Reason: verifier.ReasonTCBOrder},
			{Name: "committed firmware above current", Mutate: report(func(r *snp.Report) { r.Current.Build-- }), Reason: verifier.ReasonTCBOrder},
			{Name: "VMPL 1", Mutate: report(func(r *snp.Report) { r.VMPL = 1 }), Reason: verifier.ReasonVMPL},
			{Name: "asked for by the host", Mutate: report(func(r *snp.Report) { r.VMPL = 0xFFFFFFFF }), Reason: verifier.ReasonVMPL},
			{Name: "policy without its fixed bit", Mutate: report(func(r *snp.Report) { r.Policy &^= 1 << 17 }), Reason: verifier.ReasonPolicy},
			{Name: "policy with a reserved bit", Mutate: report(func(r *snp.Report) { r.Policy |= 1 << 40 }), Reason: verifier.ReasonPolicy},
			{Name: "unsigned report", Mutate: report(func(r *snp.Report) { r.KeyInfo = snp.KeyNone << 2 }), Reason: verifier.ReasonSigningKey},
			{Name: "reserved signing key", Mutate: report(func(r *snp.Report) { r.KeyInfo = 3 << 2 }), Reason: verifier.ReasonSigningKey},
			{Name: "unknown processor", Mutate: report(func(r *snp.Report) { r.CPU = &snp.CPUID{Family: 0x19, Model: 0x50} }), Reason: verifier.ReasonProduct},
			{Name: "processor of another product", Mutate: report(func(r *snp.Report) { r.CPU = &snp.CPUID{Family: 0x19, Model: 1} }), Reason: verifier.ReasonProduct},
			{Name: "VLEK, which is unproven", Mutate: report(vlek), Reason: verify.ReasonUnproven},
			{Name: "VLEK without its certificate", Verifier: x.verifier(t, func(c *verify.Config) { c.AllowUnproven = []string{verifier.UnprovenVLEK} }), Mutate: report(vlek), Reason: verifier.ReasonCertificateMissing},
			{Name: "version 4, which is unproven", Mutate: report(func(r *snp.Report) { r.Version = 4 }), Reason: verify.ReasonUnproven},
			{Name: "version 5, which is unproven", Mutate: report(func(r *snp.Report) { r.Version, r.LaunchMit, r.CurrentMit = 5, new(uint64), new(uint64) }), Reason: verify.ReasonUnproven},

			{Name: "simulated in production", Verifier: x.verifier(t, func(c *verify.Config) { c.Kind, c.SimulatedRoots = verify.Production, nil }), Reason: verify.ReasonSimulated},
			{Name: "simulated in production without the note", Verifier: x.verifier(t, func(c *verify.Config) { c.Kind, c.SimulatedRoots = verify.Production, nil }), Mutate: withoutNote, Reason: verifier.ReasonChainUntrusted},
			{Name: "no note", Mutate: withoutNote, Reason: verify.ReasonNotSimulated},
			{Name: "a real chip in a simulated namespace", Mutate: func(t testing.TB, in *verify.Input) {
				e, err := snp.Parse(vendorSNP(t))
				if err != nil {
					t.Fatal(err)
				}
				e.Simulation = "a note"
				if in.Evidence, err = e.Encode(); err != nil {
					t.Fatal(err)
				}
			}, Reason: verify.ReasonNotSimulated},
		},
	})
}

// Versions and keys that no outside vector covers, once they are let in.
func TestSNPUnproven(t *testing.T) {
	x := newSNPGuest(t, sim.Turin)
	v := x.verifier(t, func(c *verify.Config) { c.AllowUnproven = []string{verifier.UnprovenV5, verifier.UnprovenTurin} })
	r := func(name ...any) snpPath { return append(snpPath{"attestation_report"}, name...) }
	Run(t, Suite{
		Verifier: v,
		Good:     func(t testing.TB) *verify.Input { return x.input(t) },
		Fields: []Field{
			snpField(1, r("reported_tcb", "fmc"), verifier.ReasonTCBMismatch), snpField(1, r("current_tcb", "fmc"), verifier.ReasonSignature),
			snpField(8, r("launch_mit_vector"), verifier.ReasonSignature), snpField(8, r("current_mit_vector"), verifier.ReasonSignature),
			snpField(0, r("chip_id"), verifier.ReasonChipID), snpField(1, r("cpuid_fam_id"), verifier.ReasonMalformed, verifier.ReasonProduct),
		},
		Cases: []Case{
			{Name: "Turin is unproven", Verifier: x.verifier(t, func(c *verify.Config) { c.AllowUnproven = []string{verifier.UnprovenV5} }), Reason: verify.ReasonUnproven},
			{Name: "version 5 is unproven", Verifier: x.verifier(t, func(c *verify.Config) { c.AllowUnproven = []string{verifier.UnprovenTurin} }), Reason: verify.ReasonUnproven},
		},
	})
	g := newSNPGuest(t, sim.Genoa)
	der, err := g.a.Issue(sim.Leaf{Product: "Genoa", TCB: g.chip.TCB, CSP: "a cloud", NotBefore: snpNow.Add(-time.Hour), NotAfter: snpNow.Add(time.Hour)}, g.chip.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	certs := append(g.chip.Certs()[1:], snp.Cert{Type: snp.CertVLEK, Data: der})
	in := g.input(t)
	in.Evidence = g.evidence(t, certs, func(r *snp.Report) { r.KeyInfo = snp.KeyVLEK << 2; clear(r.ChipID[:]) })
	rs, err := g.verifier(t, func(c *verify.Config) { c.AllowUnproven = []string{verifier.UnprovenVLEK} }).Verify(in)
	if err != nil || !slices.Equal(rs[0].Unproven, []string{verifier.UnprovenVLEK}) || rs[0].Claims["signing_key"] != "vlek" {
		t.Errorf("VLEK: %v, %v", rs, err)
	}
	// A debug guest is told, for policies to deny.
	in.Evidence = g.evidence(t, g.chip.Certs(), func(r *snp.Report) { r.Policy |= 1<<19 | 1<<18 })
	if rs, err = g.verifier(t, nil).Verify(in); err != nil || !rs[0].Debug || rs[0].Claims["policy_debug_allowed"] != true || rs[0].Claims["policy_migrate_ma"] != true {
		t.Errorf("debug: %v, %v", rs, err)
	}
}

func withoutNote(t testing.TB, in *verify.Input) {
	t.Helper()
	e, err := snp.Parse(in.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	e.Simulation = ""
	if in.Evidence, err = e.Encode(); err != nil {
		t.Fatal(err)
	}
}

func vendorSNP(t testing.TB) json.RawMessage {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "as"), "evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Evidence of real hardware, recorded: its chain ends at AMD's root.
func TestSNPRecorded(t *testing.T) {
	recorded := func(change func(*verify.Config)) verify.Verifier {
		cfg := verify.Config{Kind: verify.Production, InsecureSkipRevocation: true}
		if change != nil {
			change(&cfg)
		}
		v, err := verifier.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	noCerts := func(t testing.TB, in *verify.Input) {
		e, err := snp.Parse(in.Evidence)
		if err != nil {
			t.Fatal(err)
		}
		e.Certs = nil
		if in.Evidence, err = e.Encode(); err != nil {
			t.Fatal(err)
		}
	}
	Run(t, Suite{
		Verifier: recorded(nil),
		Good: func(t testing.TB) *verify.Input {
			return &verify.Input{Evidence: vendorSNP(t), Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), InsecureSkipReportData: true}
		},
		Fields: snpFields(1),
		Cases: []Case{
			{Name: "no revocation list", Verifier: recorded(func(c *verify.Config) { c.InsecureSkipRevocation = false }), Reason: verify.ReasonCollateralMissing},
			{Name: "no VCEK anywhere", Mutate: noCerts, Reason: verify.ReasonCollateralMissing},
			{Name: "expired", Mutate: func(_ testing.TB, in *verify.Input) { in.Now = time.Date(2033, 1, 1, 0, 0, 0, 0, time.UTC) }, Reason: verifier.ReasonCertificateExpired},
			{Name: "wrong nonce", Mutate: func(_ testing.TB, in *verify.Input) {
				in.InsecureSkipReportData, in.ReportData = false, make([]byte, 48)
			}, Reason: verify.ReasonReportData},
			{Name: "initdata and a zero register", Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = []byte("x") }, Reason: verify.ReasonInitdataUnexpected},
			{Name: "in a simulated namespace", Verifier: recorded(func(c *verify.Config) { c.Kind = verify.InsecureSimulated }), Reason: verify.ReasonNotSimulated},
		},
	})
}
