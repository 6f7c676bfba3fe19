package mutations

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/nvidia"
	"github.com/cofferproject/coffer/tee/nvidia/nvidiatest"
	"github.com/cofferproject/coffer/tee/nvidia/spdm"
	nvverifier "github.com/cofferproject/coffer/tee/nvidia/verifier"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
)

// nvidiaEvidence makes evidence of entries as they are.
func nvidiaEvidence(t testing.TB, note string, list ...nvidia.Device) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(nvidia.Evidence{Devices: list, Simulation: note})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nvidiaField is the first device's report, or its chain.
func nvidiaField(name string, chain bool, from, to, every int, reasons ...denial.Reason) Field {
	return Field{
		Name: name, From: from, To: to, Every: every, Reasons: reasons,
		Get: func(b json.RawMessage) ([]byte, error) {
			e, err := nvidia.Parse(b)
			if err != nil {
				return nil, err
			}
			if chain {
				return e.Devices[0].Chain()
			}
			return e.Devices[0].ReportBytes()
		},
		Set: func(b json.RawMessage, v []byte) (json.RawMessage, error) {
			e, err := nvidia.Parse(b)
			if err != nil {
				return nil, err
			}
			d := &e.Devices[0]
			report, err1 := d.ReportBytes()
			certs, err2 := d.Chain()
			if err := errors.Join(err1, err2); err != nil {
				return nil, err
			}
			if chain {
				certs = v
			} else {
				report = v
			}
			*d = nvidia.NewDevice(d.Arch, d.UUID, report, certs)
			return json.Marshal(e)
		},
	}
}

func TestNVIDIA(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	data := slices.Repeat([]byte{0x5a}, 48)
	nonce := data[:spdm.NonceSize]
	vendor := nvidiatest.NewVendor(t, "GH100", nil)
	dev := vendor.NewDevice(t, "HOPPER")
	other := vendor.NewDevice(t, "HOPPER")
	stranger := nvidiatest.NewVendor(t, "GH100", nil).NewDevice(t, "HOPPER")
	blackwell := nvidiatest.NewVendor(t, "GB100", vendor.Root).NewDevice(t, "BLACKWELL")

	verifier := func(c verify.Config) verify.Verifier {
		v, err := nvverifier.New(c)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	simulated := func(allow []string, items ...*collateral.Item) verify.Verifier {
		return verifier(verify.Config{
			Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{vendor.Root.Cert}, Collateral: collateral.NewSet(items...), AllowUnproven: allow,
		})
	}
	report := dev.Report(t, nonce)
	entry := dev.Evidence(t, nonce)
	chain := dev.Certs()
	size := len(report)

	// with puts another chain, report or name in the entry's place.
	with := func(arch string, rep []byte, certs []*x509.Certificate) func(testing.TB, *verify.Input) {
		return func(t testing.TB, in *verify.Input) {
			in.Evidence = nvidiaEvidence(t, nvidiatest.Note, nvidia.NewDevice(arch, "u", rep, nvidiatest.PEM(certs...)))
		}
	}
	leafOf := func(d *nvidiatest.Device, change func(*x509.Certificate)) ([]byte, []*x509.Certificate) {
		c := *d
		c.Leaf = nvidiatest.New(t, d.BROM, "leaf", func(x *x509.Certificate) {
			x.IsCA, x.BasicConstraintsValid, x.KeyUsage = false, false, x509.KeyUsageDigitalSignature
			change(x)
		})
		return c.Report(t, nonce), c.Certs()
	}
	expired, expiredCerts := leafOf(dev, func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 0, -1) })
	early, earlyCerts := leafOf(dev, func(c *x509.Certificate) { c.NotBefore = now.AddDate(0, 0, 1) })
	noFW, noFWCerts := leafOf(dev, func(*x509.Certificate) {})
	ext := nvidiatest.TCBInfo(t, other.FWID)
	otherFW, otherFWCerts := leafOf(dev, func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, ext) })
	noField := *dev
	noField.Opaque = dev.Opaque[1:]

	Run(t, Suite{
		Verifier: simulated(nil, vendor.Lists(t, now)...),
		Good: func(t testing.TB) *verify.Input {
			return &verify.Input{Evidence: nvidiaEvidence(t, nvidiatest.Note, entry), ReportData: data, Now: now}
		},
		Fields: []Field{
			nvidiaField("request", false, 0, 4, 1, nvverifier.ReasonReportMalformed),
			nvidiaField("nonce", false, 4, 36, 1, nvverifier.ReasonReportSignature),
			nvidiaField("slot", false, 36, 37, 1, nvverifier.ReasonReportMalformed),
			nvidiaField("response", false, 37, size-spdm.SignatureSize, 3, nvverifier.ReasonReportMalformed, nvverifier.ReasonReportSignature, nvverifier.ReasonFWIDMismatch),
			nvidiaField("signature", false, size-spdm.SignatureSize, size, 1, nvverifier.ReasonReportSignature),
			nvidiaField("chain", true, 0, 0, 29, nvverifier.ReasonChainMalformed, nvverifier.ReasonChainUntrusted, nvverifier.ReasonReportSignature,
				nvverifier.ReasonFWIDMismatch, nvverifier.ReasonArchMismatch, nvverifier.ReasonChainExpired, verify.ReasonCollateralMissing),
		},
		Cases: []Case{
			{Name: "another nonce", Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = make([]byte, 48) }, Reason: verify.ReasonReportData},
			{Name: "an initdata document", Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = []byte("x") }, Reason: verify.ReasonInitdataUnbound},
			{Name: "another device's chain", Mutate: with("HOPPER", report, other.Certs()), Reason: nvverifier.ReasonFWIDMismatch},
			{Name: "another device's report", Mutate: with("HOPPER", other.Report(t, nonce), chain), Reason: nvverifier.ReasonFWIDMismatch},
			{Name: "another vendor", Mutate: with("HOPPER", stranger.Report(t, nonce), stranger.Certs()), Reason: nvverifier.ReasonChainUntrusted},
			{Name: "certificates exchanged", Mutate: with("HOPPER", report, []*x509.Certificate{chain[0], chain[2], chain[1], chain[3], chain[4]}), Reason: nvverifier.ReasonChainUntrusted},
			{Name: "a certificate missing", Mutate: with("HOPPER", report, slices.Delete(slices.Clone(chain), 1, 2)), Reason: nvverifier.ReasonChainUntrusted},
			{Name: "a certificate to spare", Mutate: with("HOPPER", report, slices.Insert(slices.Clone(chain), 1, other.BROM.Cert)), Reason: nvverifier.ReasonChainUntrusted},
			{Name: "the root alone", Mutate: with("HOPPER", report, chain[4:]), Reason: nvverifier.ReasonChainUntrusted},
			{Name: "no root", Mutate: with("HOPPER", report, chain[:4]), Reason: nvverifier.ReasonChainUntrusted},
			{Name: "expired leaf", Mutate: with("HOPPER", expired, expiredCerts), Reason: nvverifier.ReasonChainExpired},
			{Name: "leaf of the future", Mutate: with("HOPPER", early, earlyCerts), Reason: nvverifier.ReasonChainExpired},
			{Name: "a leaf without firmware", Mutate: with("HOPPER", noFW, noFWCerts), Reason: nvverifier.ReasonChainMalformed},
			{Name: "a leaf for other firmware", Mutate: with("HOPPER", otherFW, otherFWCerts), Reason: nvverifier.ReasonFWIDMismatch},
			{Name: "all certificates expired", Mutate: func(_ testing.TB, in *verify.Input) { in.Now = now.AddDate(20, 0, 0) }, Reason: nvverifier.ReasonChainExpired},
			{Name: "called another architecture", Mutate: with("BLACKWELL", report, chain), Verifier: simulated([]string{nvverifier.UnprovenBlackwell}, vendor.Lists(t, now)...), Reason: nvverifier.ReasonArchMismatch},
			{Name: "an architecture that nothing has shown", Mutate: with("BLACKWELL", blackwell.Report(t, nonce), blackwell.Certs()), Reason: verify.ReasonUnproven},
			{Name: "an unknown architecture", Mutate: with("AMPERE", report, chain), Reason: nvverifier.ReasonEvidenceMalformed},
			{Name: "no VBIOS version", Mutate: with("HOPPER", noField.Report(t, nonce), chain), Reason: nvverifier.ReasonReportMalformed},
			{Name: "one device twice", Mutate: func(t testing.TB, in *verify.Input) {
				in.Evidence = nvidiaEvidence(t, nvidiatest.Note, entry, dev.Evidence(t, nonce))
			}, Reason: nvverifier.ReasonDeviceRepeated},
			{Name: "no simulation note", Mutate: func(t testing.TB, in *verify.Input) { in.Evidence = nvidiaEvidence(t, "", entry) }, Reason: verify.ReasonNotSimulated},
			{Name: "simulated in production", Verifier: verifier(verify.Config{Kind: verify.Production}), Reason: verify.ReasonSimulated},
			{Name: "unknown root in production", Mutate: func(t testing.TB, in *verify.Input) { in.Evidence = nvidiaEvidence(t, "", entry) }, Verifier: verifier(verify.Config{Kind: verify.Production}), Reason: nvverifier.ReasonChainUntrusted},
			{Name: "revoked", Verifier: simulated(nil, vendor.Lists(t, now, vendor.Provisioner.Cert)...), Reason: nvverifier.ReasonRevoked},
			{Name: "no revocation list", Verifier: simulated(nil), Reason: verify.ReasonCollateralMissing},
			{Name: "old revocation list", Verifier: simulated(nil, vendor.Lists(t, now.AddDate(0, -3, 0))...), Reason: verify.ReasonCollateralExpired},
			{Name: "another issuer's list", Verifier: simulated(nil, stranger.Vendor.Lists(t, now)...), Reason: verify.ReasonCollateralUntrusted},
		},
	})
}

// TestNVIDIARecorded bends a report that a real H100 signed.
func TestNVIDIARecorded(t *testing.T) {
	dir := vectors.Dir(t, "nvidia")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	report, err := hex.DecodeString(strings.TrimSpace(string(read("hopper_coco_report1.txt"))))
	if err != nil {
		t.Fatal(err)
	}
	v, err := nvverifier.New(verify.Config{Kind: verify.Production, InsecureSkipRevocation: true})
	if err != nil {
		t.Fatal(err)
	}
	entry := nvidia.NewDevice("HOPPER", "", report, read("hopper_coco_certs1.txt"))
	swapped := nvidia.NewDevice("HOPPER", "", report, read("hopper_cert_chain_case1.txt"))
	end := len(report) - spdm.SignatureSize - 1
	Run(t, Suite{
		Verifier: v,
		Good: func(t testing.TB) *verify.Input {
			return &verify.Input{Evidence: nvidiaEvidence(t, "", entry), ReportData: report[4:36], Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		},
		Fields: []Field{
			nvidiaField("nonce", false, 4, 36, 1, nvverifier.ReasonReportSignature),
			nvidiaField("response", false, 37, end, 7, nvverifier.ReasonReportMalformed, nvverifier.ReasonReportSignature, nvverifier.ReasonFWIDMismatch),
			nvidiaField("signature", false, end, end+spdm.SignatureSize, 1, nvverifier.ReasonReportSignature),
			nvidiaField("zero at the end", false, end+spdm.SignatureSize, 0, 1, nvverifier.ReasonReportMalformed),
			nvidiaField("chain", true, 0, 0, 31, nvverifier.ReasonChainMalformed, nvverifier.ReasonChainUntrusted, nvverifier.ReasonReportSignature,
				nvverifier.ReasonFWIDMismatch, nvverifier.ReasonArchMismatch, nvverifier.ReasonChainExpired),
		},
		Cases: []Case{
			{Name: "another device's chain", Mutate: func(t testing.TB, in *verify.Input) { in.Evidence = nvidiaEvidence(t, "", swapped) }, Reason: nvverifier.ReasonFWIDMismatch},
			{Name: "another nonce", Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = make([]byte, 48) }, Reason: verify.ReasonReportData},
			{Name: "before its time", Mutate: func(_ testing.TB, in *verify.Input) { in.Now = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) }, Reason: nvverifier.ReasonChainExpired},
		},
	})
}
