package verifier

import (
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/internal/revocation"
	"github.com/cofferproject/coffer/tee/nvidia"
	"github.com/cofferproject/coffer/tee/nvidia/nvidiatest"
	"github.com/cofferproject/coffer/tee/nvidia/rim"
	"github.com/cofferproject/coffer/tee/verify"
)

var (
	testNow  = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	testData = slices.Concat(slices.Repeat([]byte{0xa5}, 48))
)

// input is evidence of devices of the test vendor.
func input(t testing.TB, devices ...*nvidiatest.Device) *verify.Input {
	e := nvidia.Evidence{Simulation: nvidiatest.Note}
	for _, d := range devices {
		e.Devices = append(e.Devices, d.Evidence(t, testData[:32]))
	}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return &verify.Input{Evidence: b, ReportData: testData, Now: testNow}
}

func simulated(root *nvidiatest.CA, unproven []string, items ...*collateral.Item) verify.Config {
	return verify.Config{
		Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{root.Cert}, AllowUnproven: unproven, Collateral: collateral.NewSet(items...),
	}
}

// skipping takes chains without revocation lists.
func skipping(c verify.Config) verify.Config {
	c.InsecureSkipRevocation = true
	return c
}

func want(t *testing.T, name string, err error, reason denial.Reason) {
	t.Helper()
	if d, ok := denial.As(err); !ok || d.Reason != reason || d.Claim == "" || d.Component != Component {
		t.Errorf("%s: %v, want %s", name, err, reason)
	}
}

func TestTwoDevices(t *testing.T) {
	v := nvidiatest.NewVendor(t, "GH100", nil)
	a, b := v.NewDevice(t, "HOPPER"), v.NewDevice(t, "hopper")
	ver := newVerifier(t, simulated(v.Root, nil, v.Lists(t, testNow)...))
	for range 2 { // again with a cached chain
		out, err := ver.Verify(input(t, a, b))
		if err != nil {
			t.Fatal(err)
		}
		if len(out) != 2 || out[0].Claims["uuid"] == out[1].Claims["uuid"] || !out[0].Simulated || out[1].SimulationNote != nvidiatest.Note {
			t.Fatalf("%+v", out)
		}
		chain, _ := out[0].Claims["x-nvidia-gpu-attestation-report-cert-chain"].(map[string]any)
		if chain["x-nvidia-cert-status"] != "valid" || chain["x-nvidia-cert-ocsp-status"] != "unknown" || chain["coffer-revocation"] != "crl" {
			t.Errorf("%v", chain)
		}
		if out[0].Claims["x-nvidia-gpu-driver-rim-fetched"] != false || out[0].Claims["measres"] != nil || out[0].Claims["secboot"] != nil {
			t.Errorf("without manifests: %v", out[0].Claims)
		}
	}
	_, err := ver.Verify(input(t, a, a))
	want(t, "one device twice", err, ReasonDeviceRepeated)
}

func TestKindsAreKeptApart(t *testing.T) {
	v := nvidiatest.NewVendor(t, "GH100", nil)
	in := input(t, v.NewDevice(t, "HOPPER"))
	_, err := newVerifier(t, verify.Config{Kind: verify.Production, InsecureSkipRevocation: true}).Verify(in)
	want(t, "simulated in production", err, verify.ReasonSimulated)
	var e nvidia.Evidence
	if err := json.Unmarshal(in.Evidence, &e); err != nil {
		t.Fatal(err)
	}
	e.Simulation = ""
	if in.Evidence, err = json.Marshal(e); err != nil {
		t.Fatal(err)
	}
	_, err = newVerifier(t, verify.Config{Kind: verify.Production, InsecureSkipRevocation: true}).Verify(in)
	want(t, "another root in production", err, ReasonChainUntrusted)
	_, err = newVerifier(t, skipping(simulated(v.Root, nil))).Verify(in)
	want(t, "no note in simulation", err, verify.ReasonNotSimulated)
	if _, err := New(verify.Config{}); err == nil {
		t.Error("a verifier without a choice")
	}
	if _, err := New(verify.Config{Kind: verify.Production, SimulatedRoots: []*x509.Certificate{v.Root.Cert}}); err == nil {
		t.Error("simulated roots in production")
	}
}

// Real evidence is not believed in a simulated namespace, note or not.
func TestRealDeviceInSimulation(t *testing.T) {
	v := nvidiatest.NewVendor(t, "GH100", nil)
	in := vectorInput(t, vectorDevice(t, false))
	ver := newVerifier(t, skipping(simulated(v.Root, nil)))
	_, err := ver.Verify(in)
	want(t, "no note", err, verify.ReasonNotSimulated)
	in.Evidence = []byte(strings.Replace(string(in.Evidence), `{"device`, `{"simulation":"x","device`, 1))
	_, err = ver.Verify(in)
	want(t, "the vendor's root", err, ReasonChainUntrusted)
}

func TestRevocation(t *testing.T) {
	v := nvidiatest.NewVendor(t, "GH100", nil)
	d := v.NewDevice(t, "HOPPER")
	in := input(t, d)
	lists := v.Lists(t, testNow)
	other := nvidiatest.NewVendor(t, "GH100", nil)
	// Responses for the two certificates that have a responder.
	_, first := revocation.Origins(v.Provisioner.Cert, v.Identity.Cert)
	_, second := revocation.Origins(v.Identity.Cert, v.Root.Cert)
	response := func(origin string, b []byte) *collateral.Item {
		return &collateral.Item{Origin: origin, Body: b, Fetched: testNow}
	}
	responder := nvidiatest.New(t, v.Identity, "responder", func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage = false, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	})
	good := []*collateral.Item{
		response(first[0], nvidiatest.Response(t, v.Provisioner.Cert, v.Identity, responder, ocsp.Good, testNow)),
		response(second[0], nvidiatest.Response(t, v.Identity.Cert, v.Root, v.Root, ocsp.Good, testNow)),
	}
	out, err := newVerifier(t, simulated(v.Root, nil, good...)).Verify(in)
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := out[0].Claims["x-nvidia-gpu-attestation-report-cert-chain"].(map[string]any); c["x-nvidia-cert-ocsp-status"] != "good" || c["coffer-revocation"] != "ocsp" {
		t.Errorf("%v", c)
	}
	if o, err := Origins(in.Evidence, nil); err != nil || !slices.Contains(o, first[0]) || !slices.Contains(o, second[0]) || !slices.Contains(o, lists[0].Origin) {
		t.Errorf("origins: %v, %v", o, err)
	}
	late := simulated(v.Root, nil, v.Lists(t, testNow.AddDate(0, -2, 0))...)
	late.InsecureExpiredCollateral = true
	if out, err = newVerifier(t, late).Verify(in); err != nil {
		t.Fatal(err)
	}
	if c, _ := out[0].Claims["x-nvidia-gpu-attestation-report-cert-chain"].(map[string]any); c["coffer-revocation"] != "expired" {
		t.Errorf("%v", c)
	}
	cut := func(i *collateral.Item) *collateral.Item {
		return &collateral.Item{Origin: i.Origin, Body: i.Body[:len(i.Body)-1], Fetched: testNow}
	}
	for name, c := range map[string]struct {
		items  []*collateral.Item
		reason denial.Reason
		skip   bool
	}{
		"nothing":           {nil, verify.ReasonCollateralMissing, false},
		"one list missing":  {lists[:1], verify.ReasonCollateralMissing, false},
		"revoked by list":   {v.Lists(t, testNow, v.Provisioner.Cert), ReasonRevoked, false},
		"revoked, skipping": {v.Lists(t, testNow, v.Identity.Cert), ReasonRevoked, true},
		"revoked by response": {
			[]*collateral.Item{lists[0], lists[1], response(first[0], nvidiatest.Response(t, v.Provisioner.Cert, v.Identity, responder, ocsp.Revoked, testNow))}, ReasonRevoked, false,
		},
		"unknown to the responder": {
			[]*collateral.Item{good[1], response(first[0], nvidiatest.Response(t, v.Provisioner.Cert, v.Identity, responder, ocsp.Unknown, testNow))}, verify.ReasonCollateralUntrusted, false,
		},
		"old list":             {v.Lists(t, testNow.AddDate(0, -2, 0)), verify.ReasonCollateralExpired, false},
		"list of the future":   {v.Lists(t, testNow.AddDate(0, 2, 0)), verify.ReasonCollateralExpired, false},
		"list of another CA":   {other.Lists(t, testNow), verify.ReasonCollateralUntrusted, false},
		"list cut":             {[]*collateral.Item{cut(lists[0]), lists[1]}, verify.ReasonCollateralMalformed, false},
		"list swapped":         {[]*collateral.Item{{Origin: lists[0].Origin, Body: lists[1].Body}, lists[1]}, verify.ReasonCollateralUntrusted, false},
		"response cut":         {[]*collateral.Item{cut(good[0]), good[1]}, verify.ReasonCollateralMalformed, false},
		"old response":         {[]*collateral.Item{good[1], response(first[0], nvidiatest.Response(t, v.Provisioner.Cert, v.Identity, responder, ocsp.Good, testNow.AddDate(0, 0, -3)))}, verify.ReasonCollateralExpired, false},
		"response of a device": {[]*collateral.Item{good[1], response(first[0], nvidiatest.Response(t, v.Provisioner.Cert, v.Identity, v.Provisioner, ocsp.Good, testNow))}, verify.ReasonCollateralUntrusted, false},
		"response of another":  {[]*collateral.Item{good[1], response(first[0], nvidiatest.Response(t, v.Provisioner.Cert, other.Identity, other.Identity, ocsp.Good, testNow))}, verify.ReasonCollateralUntrusted, false},
	} {
		cfg := simulated(v.Root, nil, c.items...)
		cfg.InsecureSkipRevocation = c.skip
		_, err := newVerifier(t, cfg).Verify(in)
		want(t, name, err, c.reason)
	}
}

// manifests gives the two manifests of a device; change bends the values.
func manifests(t testing.TB, d *nvidiatest.Device, p *nvidiatest.Publisher, driver, vbios string, change func(driver, vbios map[int][][]byte)) []*collateral.Item {
	forDriver, forVBIOS := map[int][][]byte{}, map[int][][]byte{}
	for i := range 20 {
		forDriver[i] = [][]byte{make([]byte, 48), d.Measurements[i+1]}
	}
	for i := 20; i < 64; i++ {
		forVBIOS[i] = [][]byte{d.Measurements[i+1]}
	}
	// Not compared while the decoder is disabled.
	forVBIOS[nvdecMeasurement] = [][]byte{make([]byte, 48)}
	if change != nil {
		change(forDriver, forVBIOS)
	}
	id, origin := "NV_GPU_VBIOS_1010_0200_882_960074001A", manifestOrigin(true, d.Certs())
	wrapped, err := rim.Wrap(id, p.Manifest(t, "GH100", vbios, forVBIOS))
	if err != nil {
		t.Fatal(err)
	}
	return []*collateral.Item{
		{Origin: origin + "NV_GPU_DRIVER_GH100_580.95.05", Body: p.Manifest(t, "GH100", driver, forDriver)}, {Origin: origin + id, Body: wrapped},
	}
}

func TestManifests(t *testing.T) {
	v := nvidiatest.NewVendor(t, "GH100", nil)
	d := v.NewDevice(t, "HOPPER")
	p := nvidiatest.NewPublisher(t, v.Root)
	in, lists := input(t, d), v.Lists(t, testNow)
	const driver, vbios = "580.95.05", "96.00.74.00.1A"
	good := manifests(t, d, p, driver, vbios, nil)
	allow := []string{UnprovenRIM}

	out, err := newVerifier(t, simulated(v.Root, allow, slices.Concat(lists, good)...)).Verify(in)
	if err != nil {
		t.Fatal(err)
	}
	c := out[0].Claims
	for name, wanted := range map[string]any{
		"measres": "success", "secboot": true, "dbgstat": "disabled", "x-nvidia-gpu-vbios-index-no-conflict": true,
		"x-nvidia-gpu-driver-rim-fetched": true, "x-nvidia-gpu-driver-rim-schema-validated": true, "x-nvidia-gpu-driver-rim-signature-verified": true,
		"x-nvidia-gpu-driver-rim-version-match": true, "x-nvidia-gpu-driver-rim-measurements-available": true, "x-nvidia-gpu-vbios-rim-fetched": true,
		"x-nvidia-gpu-vbios-rim-version-match": true,
	} {
		if c[name] != wanted {
			t.Errorf("claim %s: %v, not %v", name, c[name], wanted)
		}
	}
	if !slices.Equal(out[0].Unproven, allow) {
		t.Errorf("unproven %v", out[0].Unproven)
	}

	// What a policy has to judge.
	for name, m := range map[string]struct {
		items []*collateral.Item
		allow []string
		claim string
		is    any
	}{
		"another value":                  {manifests(t, d, p, driver, vbios, func(m, _ map[int][][]byte) { m[3] = [][]byte{d.Measurements[9]} }), allow, "measres", "fail"},
		"conflict":                       {manifests(t, d, p, driver, vbios, func(m, n map[int][][]byte) { n[3] = m[3] }), allow, "x-nvidia-gpu-vbios-index-no-conflict", false},
		"conflict is no success":         {manifests(t, d, p, driver, vbios, func(m, n map[int][][]byte) { n[3] = m[3] }), allow, "measres", "fail"},
		"another version":                {manifests(t, d, p, "580.95.06", vbios, nil), allow, "x-nvidia-gpu-driver-rim-version-match", false},
		"another version: no comparison": {manifests(t, d, p, "580.95.06", vbios, nil), allow, "measres", nil},
		"one missing":                    {good[:1], allow, "measres", nil},
		"not allowed":                    {good, nil, "x-nvidia-gpu-driver-rim-fetched", false},
	} {
		out, err := newVerifier(t, simulated(v.Root, m.allow, slices.Concat(lists, m.items)...)).Verify(in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if out[0].Claims[m.claim] != m.is || m.is != true && out[0].Claims["secboot"] != nil && m.claim == "measres" {
			t.Errorf("%s: %s is %v", name, m.claim, out[0].Claims[m.claim])
		}
	}

	// What cannot be believed.
	stranger := nvidiatest.NewPublisher(t, nvidiatest.NewVendor(t, "GH100", nil).Root)
	body := func(b []byte) []*collateral.Item {
		return []*collateral.Item{{Origin: good[0].Origin, Body: b}, good[1]}
	}
	short := &nvidiatest.Publisher{Chain: p.Chain}
	short.Signer = nvidiatest.New(t, v.Root, "short", func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.NotAfter = false, x509.KeyUsageDigitalSignature, testNow.AddDate(0, 0, -1)
	})
	short.Chain = []*x509.Certificate{short.Signer.Cert, v.Root.Cert}
	for name, m := range map[string]struct {
		items  []*collateral.Item
		reason denial.Reason
	}{
		"another root": {manifests(t, d, stranger, driver, vbios, nil), verify.ReasonCollateralUntrusted},
		"bent value":   {body([]byte(strings.Replace(string(good[0].Body), `ns2:Hash0="0`, `ns2:Hash0="1`, 1))), verify.ReasonCollateralUntrusted},
		"no XML":       {body([]byte("<a>")), verify.ReasonCollateralMalformed},
		"another id":   {body(good[1].Body), verify.ReasonCollateralMalformed},
		"expired":      {manifests(t, d, short, driver, vbios, nil), verify.ReasonCollateralExpired},
		"signed by a device": {
			manifests(t, d, &nvidiatest.Publisher{Signer: d.BROM, Chain: []*x509.Certificate{d.BROM.Cert, v.Provisioner.Cert, v.Identity.Cert, v.Root.Cert}}, driver, vbios, nil), verify.ReasonCollateralUntrusted,
		},
	} {
		_, err := newVerifier(t, simulated(v.Root, allow, slices.Concat(lists, m.items)...)).Verify(in)
		want(t, name, err, m.reason)
	}
}

func TestSwitchesAndTopology(t *testing.T) {
	root := nvidiatest.New(t, nil, "Test Device Identity CA", nil)
	gpus, switches := nvidiatest.NewVendor(t, "GH100", root), nvidiatest.NewVendor(t, "LS10", root)
	pdi := func(kind byte, i int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(kind)<<56|uint64(i+1)) }
	var all []*nvidiatest.Device
	for range 8 {
		g := gpus.NewDevice(t, "HOPPER")
		var list []byte
		for i := range 4 {
			list = append(append(list, pdi(2, i)...), make([]byte, 8)...)
		}
		g.Opaque = append(g.Opaque, nvidiatest.Field{Type: 22, Value: list})
		all = append(all, g)
	}
	for i := range 4 {
		s := switches.NewDevice(t, "LS10")
		var list []byte
		for j := range 8 {
			list = append(list, pdi(1, j)...)
		}
		s.Opaque = append(s.Opaque, nvidiatest.Field{Type: 22, Value: pdi(2, i)}, nvidiatest.Field{Type: 26, Value: list})
		all = append(all, s)
	}
	ver := newVerifier(t, skipping(simulated(root, []string{UnprovenSwitch})))
	out, err := ver.Verify(input(t, all...))
	if err != nil {
		t.Fatal(err)
	}
	if last := out[len(out)-1]; len(out) != 13 || last.Class != ClassPPCIE || !maps.Equal(last.Claims, map[string]any{"switch_count": 4, "gpu_count": 8}) {
		t.Errorf("%d results, %+v", len(out), last)
	}
	if s := out[8]; s.Class != verify.ClassSwitch || s.Claims["x-nvidia-switch-bios-version"] != "96.00.74.00.1A" || s.Claims["x-nvidia-switch-arch-check"] != true {
		t.Errorf("%+v", s.Claims)
	}
	// A switch that names another GPU, and a missing device: no such system.
	last := all[11]
	bent := slices.Clone(last.Opaque)
	value := slices.Clone(bent[len(bent)-1].Value)
	value[7] ^= 0x80
	last.Opaque = append(bent[:len(bent)-1:len(bent)-1], nvidiatest.Field{Type: 26, Value: value})
	for name, devices := range map[string][]*nvidiatest.Device{"another GPU named": all, "eleven devices": all[:11]} {
		out, err := ver.Verify(input(t, devices...))
		if err != nil || len(out) != len(devices) {
			t.Errorf("%s: %d results, %v", name, len(out), err)
		}
	}
	_, err = newVerifier(t, skipping(simulated(root, nil))).Verify(input(t, all...))
	want(t, "switch not allowed", err, verify.ReasonUnproven)
	all[0].Arch = "LS10"
	_, err = ver.Verify(input(t, all[0]))
	want(t, "a GPU called a switch", err, ReasonArchMismatch)
}

func BenchmarkVerify(b *testing.B) {
	v := nvidiatest.NewVendor(b, "GH100", nil)
	in := input(b, v.NewDevice(b, "HOPPER"))
	cfg := simulated(v.Root, nil, v.Lists(b, testNow)...)
	b.Run("cached chain", func(b *testing.B) {
		ver := newVerifier(b, cfg)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ver.Verify(in); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("cached chain, parallel", func(b *testing.B) {
		ver := newVerifier(b, cfg)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := ver.Verify(in); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("first sight", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := newVerifier(b, cfg).Verify(in); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("P-384 alone", func(b *testing.B) {
		d := v.NewDevice(b, "HOPPER")
		msg := d.Unsigned(testData[:32])
		sig := d.Sign(b, msg)[len(msg):]
		for b.Loop() {
			if !verifyRaw(&d.Leaf.Key.PublicKey, msg, sig) {
				b.Fatal("bad signature")
			}
		}
	})
}

func FuzzVerify(f *testing.F) {
	v := nvidiatest.NewVendor(f, "GH100", nil)
	ver, err := New(verify.Config{Kind: verify.Production, AllowUnproven: []string{UnprovenBlackwell, UnprovenSwitch}, InsecureSkipRevocation: true})
	if err != nil {
		f.Fatal(err)
	}
	sim, err := New(skipping(simulated(v.Root, []string{UnprovenBlackwell, UnprovenSwitch})))
	if err != nil {
		f.Fatal(err)
	}
	in := input(f, v.NewDevice(f, "HOPPER"))
	f.Add([]byte(in.Evidence))
	f.Add([]byte(`{"device_evidence_list":[{"arch":"LS10","evidence":"11e0","certificate":""}]}`))
	f.Add([]byte(`{}`))
	if _, err := os.Stat("../../../../shared/vectors/nvidia"); err == nil {
		f.Add([]byte(vectorInput(f, vectorDevice(f, true)).Evidence))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// The nonce is another one than any seed's, so nothing may pass.
		for _, v := range []*Verifier{ver, sim} {
			if _, err := v.Verify(&verify.Input{Evidence: b, ReportData: make([]byte, 48), Now: testNow}); err == nil {
				t.Error("accepted")
			} else if _, ok := denial.As(err); !ok {
				t.Errorf("not a denial: %v", err)
			}
		}
		_, _ = Origins(b, nil)
	})
}
