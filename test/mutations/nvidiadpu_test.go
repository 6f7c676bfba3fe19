package mutations

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/nvidia/nvidiatest"
	"github.com/cofferproject/coffer/tee/nvidiadpu"
	dpuverifier "github.com/cofferproject/coffer/tee/nvidiadpu/verifier"
	"github.com/cofferproject/coffer/tee/verify"
)

// dpuField is a part of the one device.
func dpuField(name string, part func(*nvidiadpu.Device) *[]byte, every int) Field {
	return Field{
		Name: name, Every: every,
		Get: func(b json.RawMessage) ([]byte, error) {
			e, err := nvidiadpu.Parse(b)
			if err != nil {
				return nil, err
			}
			return *part(&e.Devices[0]), nil
		},
		Set: func(b json.RawMessage, v []byte) (json.RawMessage, error) {
			e, err := nvidiadpu.Parse(b)
			if err != nil {
				return nil, err
			}
			*part(&e.Devices[0]) = v
			return json.Marshal(e)
		},
	}
}

func TestNVIDIADPU(t *testing.T) {
	now := nvidiatest.Begin.Add(30 * time.Minute)
	data := slices.Repeat([]byte{0x11}, 48)
	fw := sha512.Sum384([]byte("firmware"))
	root := nvidiatest.New(t, nil, "Test DPU root", nil)
	const list = "http://crl.example.com/dpu.crl"
	newDevice := func(parent *nvidiatest.CA, change func(*x509.Certificate)) *nvidiatest.CA {
		return nvidiatest.New(t, parent, "bluefield3", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{nvidiatest.TCBInfo(t, fw[:], fw[:])}
			if change != nil {
				change(c)
			}
		})
	}
	newAlias := func(d *nvidiatest.CA, change func(*x509.Certificate)) *nvidiatest.CA {
		return nvidiatest.New(t, d, "alias", func(c *x509.Certificate) {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = false, false, x509.KeyUsageDigitalSignature
			if change != nil {
				change(c)
			}
		})
	}
	device := newDevice(root, nil)
	alias := newAlias(device, nil)
	published := newDevice(root, func(c *x509.Certificate) { c.CRLDistributionPoints = []string{list} })
	publishedAlias := newAlias(published, nil)
	noCA := newDevice(root, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	expired := newAlias(device, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) })
	badFW := newDevice(root, func(c *x509.Certificate) { c.ExtraExtensions[0].Value = []byte{0x30, 0} })

	sign := func(a *nvidiatest.CA, raw bool) []byte {
		h := sha512.Sum384(data)
		if !raw {
			s, err := ecdsa.SignASN1(rand.Reader, a.Key, h[:])
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		r, s, err := ecdsa.Sign(rand.Reader, a.Key, h[:])
		if err != nil {
			t.Fatal(err)
		}
		out := make([]byte, 96)
		r.FillBytes(out[:48])
		s.FillBytes(out[48:])
		return out
	}
	evidence := func(note string, a, d *nvidiatest.CA, sig []byte) json.RawMessage {
		b, err := json.Marshal(nvidiadpu.Evidence{Version: 1, Simulation: note, Devices: []nvidiadpu.Device{{Architecture: "bluefield3", Alias: a.Cert.Raw, DeviceID: d.Cert.Raw, Signature: sig}}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	with := func(a, d *nvidiatest.CA) func(testing.TB, *verify.Input) {
		return func(_ testing.TB, in *verify.Input) { in.Evidence = evidence("test", a, d, sign(a, true)) }
	}
	verifier := func(c verify.Config, o dpuverifier.Options) verify.Verifier {
		c.AllowUnproven = []string{dpuverifier.Unproven}
		v, err := dpuverifier.New(c, o)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	simulated := func(items ...*collateral.Item) verify.Config {
		return verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{root.Cert}, Collateral: collateral.NewSet(items...)}
	}
	off, err := dpuverifier.New(simulated(), dpuverifier.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]verify.Config{"no root in production": {Kind: verify.Production}, "no choice": {}} {
		if _, err := dpuverifier.New(c, dpuverifier.Options{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}

	s := Suite{
		Verifier: verifier(simulated(), dpuverifier.Options{}),
		Good: func(testing.TB) *verify.Input {
			return &verify.Input{Evidence: evidence("test", alias, device, sign(alias, true)), ReportData: data, Now: now}
		},
		Fields: []Field{
			dpuField("alias certificate", func(d *nvidiadpu.Device) *[]byte { return &d.Alias }, 3),
			dpuField("DeviceID certificate", func(d *nvidiadpu.Device) *[]byte { return &d.DeviceID }, 3),
			dpuField("signature", func(d *nvidiadpu.Device) *[]byte { return &d.Signature }, 1),
		},
		Cases: []Case{
			{Name: "another nonce", Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = make([]byte, 48) }, Reason: verify.ReasonReportData},
			{Name: "longer report data", Mutate: func(_ testing.TB, in *verify.Input) { in.ReportData = append(bytes.Clone(data), 0) }, Reason: verify.ReasonReportData},
			{Name: "signed by the device's key", Mutate: func(_ testing.TB, in *verify.Input) {
				in.Evidence = evidence("test", alias, device, sign(device, true))
			}, Reason: verify.ReasonReportData},
			{Name: "an initdata document", Mutate: func(_ testing.TB, in *verify.Input) { in.Initdata = []byte("x") }, Reason: verify.ReasonInitdataUnbound},
			{Name: "another device's alias", Mutate: with(publishedAlias, device), Reason: dpuverifier.ReasonChainUntrusted},
			{Name: "certificates exchanged", Mutate: with(device, alias), Reason: dpuverifier.ReasonChainUntrusted},
			{Name: "a device that is no issuer", Mutate: with(newAlias(noCA, nil), noCA), Reason: dpuverifier.ReasonChainUntrusted},
			{Name: "another root", Mutate: func() func(testing.TB, *verify.Input) {
				d := newDevice(nvidiatest.New(t, nil, "other", nil), nil)
				return with(newAlias(d, nil), d)
			}(), Reason: dpuverifier.ReasonChainUntrusted},
			{Name: "expired alias", Mutate: with(expired, device), Reason: dpuverifier.ReasonChainExpired},
			{Name: "an hour later", Mutate: func(_ testing.TB, in *verify.Input) { in.Now = now.Add(time.Hour) }, Reason: dpuverifier.ReasonAliasAge},
			{Name: "before its time", Mutate: func(_ testing.TB, in *verify.Input) { in.Now = now.Add(-time.Hour) }, Reason: dpuverifier.ReasonChainExpired},
			{Name: "shorter age configured", Verifier: verifier(simulated(), dpuverifier.Options{MaxAge: time.Minute}), Reason: dpuverifier.ReasonAliasAge},
			{Name: "broken firmware identity", Mutate: with(newAlias(badFW, nil), badFW), Reason: dpuverifier.ReasonChainMalformed},
			{Name: "no revocation list", Mutate: with(publishedAlias, published), Reason: verify.ReasonCollateralMissing},
			{Name: "revoked", Mutate: with(publishedAlias, published), Verifier: verifier(simulated(nvidiatest.List(t, root, list, now, published.Cert)), dpuverifier.Options{}), Reason: dpuverifier.ReasonRevoked},
			{Name: "not allowed", Verifier: off, Reason: verify.ReasonUnproven},
			{Name: "simulated in production", Verifier: verifier(verify.Config{Kind: verify.Production}, dpuverifier.Options{Roots: []*x509.Certificate{root.Cert}}), Reason: verify.ReasonSimulated},
			{Name: "no note in simulation", Mutate: func(_ testing.TB, in *verify.Input) { in.Evidence = evidence("", alias, device, sign(alias, true)) }, Reason: verify.ReasonNotSimulated},
		},
	}
	Run(t, s)

	// DER does as well, and the claims are the published ones.
	in := s.Good(t)
	in.Evidence = evidence("test", alias, device, sign(alias, false))
	out, err := s.Verifier.Verify(in)
	if err != nil {
		t.Fatal(err)
	}
	c := out[0].Claims
	if out[0].Class != verify.ClassDPU || c["device_class"] != "bluefield3" || c["firmware_layers_count"] != 2 || c["alias_timestamp"] != alias.Cert.NotBefore.Unix() {
		t.Errorf("%+v", out[0])
	}
}
