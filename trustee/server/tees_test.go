package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/csv/chain"
	"github.com/cofferproject/coffer/tee/csv/csvtest"
	csvverifier "github.com/cofferproject/coffer/tee/csv/verifier"
	"github.com/cofferproject/coffer/tee/gcp/gcptest"
	"github.com/cofferproject/coffer/tee/hygondcu"
	"github.com/cofferproject/coffer/tee/hygondcu/dcutest"
	dcuverifier "github.com/cofferproject/coffer/tee/hygondcu/verifier"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
	"github.com/cofferproject/coffer/tee/nitro"
	nitroattester "github.com/cofferproject/coffer/tee/nitro/attester"
	nitromeasure "github.com/cofferproject/coffer/tee/nitro/measure"
	nitrosim "github.com/cofferproject/coffer/tee/nitro/sim"
	"github.com/cofferproject/coffer/tee/nvidia/nvidiatest"
	"github.com/cofferproject/coffer/tee/nvidiadpu"
	"github.com/cofferproject/coffer/tee/sgx"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/trustee/appraisal"
	"github.com/cofferproject/coffer/trustee/tenant"
)

// Every TEE here attests over the wire with evidence that its simulator or test
// chip makes for the session, and is judged by the default policies and by
// reference values that were computed apart, or written down from the machine.

// documentOf is an initdata document with the one algorithm of a TEE, and its
// digest as bindings name it.
func documentOf(t testing.TB, alg initdata.Algorithm) (doc []byte, digest string) {
	t.Helper()
	doc, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: alg, Data: map[string]string{"note": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	sum, err := initdata.Digest(alg, doc)
	if err != nil {
		t.Fatal(err)
	}
	return doc, string(alg) + ":" + hex.EncodeToString(sum)
}

// attestAs runs a handshake; evidence gets the session's report data.
func (w *world) attestAs(ns, tee string, doc []byte, evidence func(data []byte) any) (*rcar, *answer) {
	w.t.Helper()
	c := w.client(ns)
	if a := c.auth(tee, `""`); a.status != 200 {
		w.t.Fatalf("auth: %d %s", a.status, a.body)
	}
	b, err := json.Marshal(evidence(c.reportData()))
	if err != nil {
		w.t.Fatal(err)
	}
	return c, c.attest(string(b), doc)
}

// affirmed demands a token, and gives what it says of one device.
func (w *world) affirmed(c *rcar, a *answer, device string) ear.Submod {
	w.t.Helper()
	if a.status != 200 {
		w.t.Fatalf("%d %s: %+v", a.status, a.body, w.admin.record(a.err.Record).Denial)
	}
	claims, err := w.s.tokens.Verify(w.t.Context(), c.namespace(), c.token)
	if err != nil {
		w.t.Fatal(err)
	}
	s, ok := claims.Submods[device]
	if !ok || s.Coffer == nil {
		w.t.Fatalf("no %s in %+v", device, claims.Submods)
	}
	return s
}

// values registers reference values under a name.
func (w *world) values(ns, name string, values map[string]any) {
	w.t.Helper()
	b := &refvalue.Bundle{Version: 1, Provenance: refvalue.Provenance{Tool: "test"}, Sets: []refvalue.Set{}}
	for n, v := range values {
		b.AddValues(n, v)
	}
	w.admin.must("PUT", "/namespaces/"+ns+"/reference-values/"+name, b)
}

// trust registers simulated hardware of one TEE, and what it needs to be allowed.
func (w *world) trust(tee string, roots []*x509.Certificate, allow ...string) {
	w.t.Helper()
	for _, r := range roots {
		w.admin.must("POST", "/namespaces/sim/roots", trusteeapi.EKRoot{TEE: tee, Certificate: string(nvidiatest.PEM(r))})
	}
	w.admin.must("PUT", "/namespaces/sim/allow-unproven", trusteeapi.AllowUnproven{AllowUnproven: allow})
}

func (w *world) importItems(items ...*collateral.Item) {
	w.t.Helper()
	b, err := collateral.NewSet(items...).Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	if status, a := w.admin.do("POST", "/collateral", b); status != 200 {
		w.t.Fatalf("collateral: %d %s", status, a)
	}
}

// embedded takes the test's own policy away.
func (w *world) embedded(ns string) {
	w.t.Helper()
	if status, b := w.admin.do("DELETE", "/namespaces/"+ns+"/policies/default_cpu", nil); status != 204 {
		w.t.Fatalf("%d %s", status, b)
	}
}

func TestSGXGetsItsSecret(t *testing.T) {
	w := newWorld(t)
	w.embedded("sim")
	p, err := intelsim.New(intelsim.Options{Now: time.Now().Add(-2 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	w.trust("sgx", []*x509.Certificate{p.Root()})
	doc, digest := documentOf(t, initdata.SHA512)
	w.admin.put("sim", secretName, "toy")
	w.admin.must("POST", "/namespaces/sim/bindings/"+secretName, trusteeapi.Binding{Initdata: []string{digest}})
	quote := func(version uint16) func([]byte) any {
		return func(data []byte) any {
			e := p.Enclave()
			copy(e.ReportData[:], data)
			e.ConfigID = sha512.Sum512(doc)
			raw, err := p.QuoteEnclave(&e, version)
			if err != nil {
				t.Fatal(err)
			}
			b, err := (&sgx.Evidence{Quote: raw, Simulation: "everything"}).Encode()
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	_, a := w.attestAs("sim", "sgx", doc, quote(3))
	denied(t, w, a, 403, "collateral-missing")
	items, err := p.Collateral(intelsim.CollateralOptions{Now: time.Now().Add(-time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	w.importItems(items...)
	c, a := w.attestAs("sim", "sgx", doc, quote(3))
	if s := w.affirmed(c, a, "cpu0"); s.Vector.Executables == ear.ApprovedBoot {
		t.Errorf("nobody has named the enclave: %+v", s)
	}
	denied(t, w, c.get(secretName), 403, "status-unacceptable")

	e := p.Enclave()
	w.values("sim", "enclave", map[string]any{"sgx_mr_enclave": hex.EncodeToString(e.MREnclave[:])})
	c, a = w.attestAs("sim", "sgx", doc, quote(3))
	if s := w.affirmed(c, a, "cpu0"); s.Vector.Executables != ear.ApprovedBoot || s.Vector.Hardware != ear.UnsafeHardware || !s.Coffer.Simulated || s.Coffer.Initdata.String() != digest {
		t.Errorf("%+v", s)
	}
	if a := c.get(secretName); a.status != 200 || string(c.open(a.body)) != "toy" {
		t.Errorf("%d %s", a.status, a.body)
	}
	// A version that nobody outside has shown to be right, another document, and a
	// machine whose certificate was revoked meanwhile.
	_, a = w.attestAs("sim", "sgx", doc, quote(4))
	denied(t, w, a, 403, "unproven-verifier")
	other, _ := documentOf(t, initdata.SHA512)
	_, a = w.attestAs("sim", "sgx", append(other, '\n'), quote(3))
	denied(t, w, a, 403, "initdata-mismatch")
	if items, err = p.Collateral(intelsim.CollateralOptions{Now: time.Now().Add(-time.Minute), RevokePCK: true}); err != nil {
		t.Fatal(err)
	}
	w.importItems(items...)
	_, a = w.attestAs("sim", "sgx", doc, quote(3))
	denied(t, w, a, 403, "dcap-pck-revoked")
	_, a = w.attestAs("default", "sgx", doc, quote(3))
	denied(t, w, a, 403, "simulated-evidence")
}

// ownChain has the verifiers of Hygon's TEEs trust a root of a test's.
func ownChain(root *chain.Root) func(*Config) {
	config := func(t *tenant.Trust, c collateral.Source) verify.Config {
		return verify.Config{Kind: verify.Production, AllowUnproven: t.Namespace.AllowUnproven, Collateral: c}
	}
	return func(c *Config) {
		c.Verifiers["csv"] = appraisal.Factory(func(t *tenant.Trust, s collateral.Source) (verify.Verifier, error) {
			return csvverifier.New(csvverifier.Config{Config: config(t, s), InsecureTestRoot: root})
		})
		c.Verifiers["hygondcu"] = appraisal.Factory(func(t *tenant.Trust, s collateral.Source) (verify.Verifier, error) {
			return dcuverifier.New(dcuverifier.Config{Config: config(t, s), InsecureTestRoot: root})
		})
	}
}

func TestCSVUnderAChainOfOurOwn(t *testing.T) {
	chip, err := csvtest.New()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, ownChain(chip.Root()))
	w.embedded("default")
	good := csvtest.Good()
	good.Policy = 0xf // no debugging, no key sharing, encrypted state, no sending
	report := func(data []byte) any {
		body := good
		copy(body.ReportData[:], initdata.Fit(data, len(body.ReportData)))
		e, err := chip.V1(body)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	_, a := w.attestAs("default", "csv", nil, report)
	denied(t, w, a, 403, "unproven-verifier")
	w.admin.must("PUT", "/namespaces/default/allow-unproven", trusteeapi.AllowUnproven{AllowUnproven: []string{csvverifier.UnprovenChain, dcuverifier.Unproven}})
	_, a = w.attestAs("default", "csv", nil, report)
	denied(t, w, a, 403, "collateral-missing")
	w.importItems(&collateral.Item{Origin: csvverifier.KeyService + csvtest.Serial, Body: chip.File(), Fetched: time.Now().UTC()})
	c, a := w.attestAs("default", "csv", nil, report)
	s := w.affirmed(c, a, "cpu0")
	if s.Status == ear.Affirming || len(s.Coffer.Unproven) != 1 {
		t.Errorf("without reference values: %+v", s)
	}
	claims, ok := s.Evidence["csv"].(map[string]any)
	if !ok {
		t.Fatalf("claims %v", s.Evidence)
	}
	policy, ok := claims["policy"].(map[string]any)
	if !ok {
		t.Fatalf("claims %v", claims)
	}
	w.values("default", "csv", map[string]any{"csv_measure": claims["measure"], "csv_hsk_version": policy["hsk_version"], "csv_cek_version": policy["cek_version"]})
	c, a = w.attestAs("default", "csv", nil, report)
	if s = w.affirmed(c, a, "cpu0"); s.Status != ear.Affirming || s.Coffer.Simulated || s.Coffer.Initdata != nil {
		t.Errorf("with reference values: %+v", s)
	}
	// It binds no initdata: affirmed, and without a secret.
	w.bindSecret("default", secretName, "hunter2", document(t, "pod a"))
	denied(t, w, c.get(secretName), 403, "initdata-unbound")
	_, a = w.attestAs("default", "csv", document(t, "pod a"), report)
	denied(t, w, a, 403, "initdata-unbound")
	_, a = w.attestAs("default", "csv", nil, func([]byte) any { return report(make([]byte, 48)) })
	denied(t, w, a, 403, "report-data-mismatch")

	// The same chip's accelerator.
	w.importItems(&collateral.Item{Origin: chain.KeyService + csvtest.Serial, Body: chip.File(), Fetched: time.Now().UTC()})
	dcu := func(data []byte) any {
		r, err := dcutest.Report(chip, [hygondcu.UserDataSize]byte(initdata.Fit(data, hygondcu.UserDataSize)))
		if err != nil {
			t.Fatal(err)
		}
		return &hygondcu.Evidence{Reports: []hygondcu.Report{r}}
	}
	c, a = w.attestAs("default", "hygondcu", nil, dcu)
	if s = w.affirmed(c, a, "dcu0"); s.Status == ear.Affirming {
		t.Errorf("an accelerator that nobody has named: %+v", s)
	}
	if claims, ok = s.Evidence["hygondcu"].(map[string]any); !ok {
		t.Fatalf("claims %v", s.Evidence)
	}
	body, ok := claims["body"].(map[string]any)
	if !ok {
		t.Fatalf("claims %v", claims)
	}
	w.values("default", "dcu", map[string]any{"dcu_measure": body["measure"], "dcu_chip_id": body["chip_id"]})
	c, a = w.attestAs("default", "hygondcu", nil, dcu)
	if s = w.affirmed(c, a, "dcu0"); s.Status != ear.Affirming || len(s.Coffer.Unproven) == 0 {
		t.Errorf("%+v", s)
	}
	_, a = w.attestAs("default", "hygondcu", nil, func([]byte) any { return dcu(make([]byte, 48)) })
	denied(t, w, a, 403, "report-data-mismatch")
	_, a = w.attestAs("default", "hygondcu", nil, func(data []byte) any {
		e := dcu(data).(*hygondcu.Evidence)
		e.Reports = append(e.Reports, e.Reports[0])
		return e
	})
	denied(t, w, a, 403, "hygondcu-device-twice")
}

// Nitro's PCRs come from the simulated hardware; what they must be, from
// tee/nitro/measure, which shares no code with it.
func TestNitroGetsItsSecret(t *testing.T) {
	w := newWorld(t)
	w.embedded("sim")
	now := time.Now()
	key, root, err := nitrosim.NewRoot(now)
	if err != nil {
		t.Fatal(err)
	}
	w.trust("nitro", []*x509.Certificate{root}, "nitro")
	doc, digest := documentOf(t, initdata.SHA384)
	w.admin.put("sim", secretName, "toy")
	w.admin.must("POST", "/namespaces/sim/bindings/"+secretName, trusteeapi.Binding{Initdata: []string{digest}})
	kernel, initrd, cmdline := []byte("kernel"), []byte("initrd"), "console=ttyS0"
	boot := func(cmdline string) func([]byte) any {
		e, err := nitrosim.Launch(key, root, &nitrosim.Inputs{Kernel: kernel, Initrd: initrd, Cmdline: cmdline}, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		a, err := nitroattester.New(t.Context(), e, "everything")
		if err != nil {
			t.Fatal(err)
		}
		sum := sha512.Sum384(doc)
		if err := a.Extend(t.Context(), nitro.PCRInitdata, sum[:]); err != nil {
			t.Fatal(err)
		}
		return func(data []byte) any {
			b, err := a.Evidence(t.Context(), data, nil)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	good := boot(cmdline)
	c, a := w.attestAs("sim", "nitro", doc, good)
	w.affirmed(c, a, "cpu0")
	denied(t, w, c.get(secretName), 403, "status-unacceptable")
	img, err := nitromeasure.EIF(bytes.NewReader(kernel), cmdline, bytes.NewReader(initrd))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	for i, v := range [][]byte{img.PCR0, img.PCR1, img.PCR2} {
		values[fmt.Sprintf("nitro_pcr%d", i)] = hex.EncodeToString(v)
	}
	w.values("sim", "image", values)
	c, a = w.attestAs("sim", "nitro", doc, good)
	if s := w.affirmed(c, a, "cpu0"); s.Vector.Executables != ear.ApprovedBoot || len(s.Coffer.Unproven) != 1 || s.Coffer.Initdata.String() != digest {
		t.Errorf("%+v", s)
	}
	if a := c.get(secretName); a.status != 200 || string(c.open(a.body)) != "toy" {
		t.Errorf("%d %s", a.status, a.body)
	}
	c, a = w.attestAs("sim", "nitro", doc, boot("console=ttyS0 init=/bin/sh"))
	w.affirmed(c, a, "cpu0")
	a = c.get(secretName)
	denied(t, w, a, 403, "status-unacceptable")
	if d := w.admin.record(a.err.Record).Denial; d.Claim == "" || d.Measured == "" || d.Expected == "" {
		t.Errorf("the owner is not told: %+v", d)
	}
	_, a = w.attestAs("sim", "nitro", nil, good)
	denied(t, w, a, 403, "initdata-missing")
	w.admin.must("PUT", "/namespaces/sim/allow-unproven", trusteeapi.AllowUnproven{})
	_, a = w.attestAs("sim", "nitro", doc, good)
	denied(t, w, a, 403, "unproven-verifier")
}

func TestGCPAttests(t *testing.T) {
	w := newWorld(t)
	w.embedded("sim")
	m := gcptest.New(t)
	w.trust("gcp", []*x509.Certificate{m.SNP.Authority.Root(), m.Root}, "gcp")
	vm := func(data []byte) any { return m.Document(t, data) }
	c, a := w.attestAs("sim", "gcp", nil, vm)
	s := w.affirmed(c, a, "cpu0")
	if s.Vector.Executables == ear.ApprovedBoot || len(s.Coffer.Unproven) != 1 {
		t.Errorf("without reference values: %+v", s)
	}
	claims, ok := s.Evidence["gcp"].(map[string]any)
	if !ok {
		t.Fatalf("claims %v", s.Evidence)
	}
	regs, ok := claims["tpm"].(map[string]any)
	if !ok {
		t.Fatalf("claims %v", claims)
	}
	w.values("sim", "vm", map[string]any{
		"snp_launch_measurement": claims["measurement"], "gcp_pcr4": regs["pcr04"], "gcp_pcr11": regs["pcr11"], "gcp_pcr12": regs["pcr12"],
		"snp_bootloader": claims["reported_tcb_bootloader"], "snp_microcode": claims["reported_tcb_microcode"], "snp_snp_svn": claims["reported_tcb_snp"], "snp_tee_svn": claims["reported_tcb_tee"],
	})
	c, a = w.attestAs("sim", "gcp", nil, vm)
	if s = w.affirmed(c, a, "cpu0"); s.Vector.Executables != ear.ApprovedBoot || s.Vector.Hardware != ear.UnsafeHardware || s.Vector.Configuration != 3 {
		t.Errorf("with reference values: %+v", s)
	}
	w.bindSecret("sim", secretName, "toy", document(t, "pod a"))
	denied(t, w, c.get(secretName), 403, "initdata-unbound")
	_, a = w.attestAs("sim", "gcp", nil, func(data []byte) any {
		d := m.Document(t, data)
		d.Quotes[1].PCRs.PCRs["4"][0] ^= 1
		return d
	})
	denied(t, w, a, 403, "gcp-quote-digest")
	_, a = w.attestAs("sim", "gcp", nil, func([]byte) any { return m.Document(t, make([]byte, 48)) })
	denied(t, w, a, 403, "report-data-mismatch")
	stranger := gcptest.New(t)
	_, a = w.attestAs("sim", "gcp", nil, func(data []byte) any { return stranger.Document(t, data) })
	denied(t, w, a, 403, "gcp-ak-untrusted")
}

func TestNVIDIADPUAttests(t *testing.T) {
	w := newWorld(t)
	fw := sha512.Sum384([]byte("firmware"))
	// The test vendor's certificates are of a fixed day; these are of today.
	today := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	}
	root := nvidiatest.New(t, nil, "Test DPU root", today)
	device := nvidiatest.New(t, root, "bluefield3", func(c *x509.Certificate) {
		today(c)
		c.ExtraExtensions = []pkix.Extension{nvidiatest.TCBInfo(t, fw[:], fw[:])}
	})
	alias := nvidiatest.New(t, device, "alias", func(c *x509.Certificate) {
		today(c)
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = false, false, x509.KeyUsageDigitalSignature
	})
	evidence := func(data []byte) any {
		h := sha512.Sum384(data)
		r, s, err := ecdsa.Sign(rand.Reader, alias.Key, h[:])
		if err != nil {
			t.Fatal(err)
		}
		sig := make([]byte, 96)
		r.FillBytes(sig[:48])
		s.FillBytes(sig[48:])
		return &nvidiadpu.Evidence{Version: 1, Devices: []nvidiadpu.Device{{Architecture: "bluefield3", Alias: alias.Cert.Raw, DeviceID: device.Cert.Raw, Signature: sig}}}
	}
	w.admin.must("PUT", "/namespaces/default/allow-unproven", trusteeapi.AllowUnproven{AllowUnproven: []string{"nvidia-dpu"}})
	c := w.client("")
	denied(t, w, c.auth("nvidiadpu", `""`), 403, "tee-unsupported") // no root, no verifier
	if status, b := w.admin.do("PUT", "/namespaces/default/anchors/nvidiadpu/roots", nvidiatest.PEM(root.Cert)); status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	c, a := w.attestAs("default", "nvidiadpu", nil, evidence)
	s := w.affirmed(c, a, "nvidia-dpu0")
	if s.Status == ear.Affirming || len(s.Coffer.Unproven) != 1 {
		t.Errorf("a device that nobody has named: %+v", s)
	}
	claims, ok := s.Evidence["nvidiadpu"].(map[string]any)
	if !ok {
		t.Fatalf("claims %v", s.Evidence)
	}
	w.values("default", "dpu", map[string]any{"dpu_accumulated_fwid": claims["accumulated_fwid"], "dpu_device_serial": claims["device_serial"]})
	c, a = w.attestAs("default", "nvidiadpu", nil, evidence)
	if s = w.affirmed(c, a, "nvidia-dpu0"); s.Status != ear.Affirming {
		t.Errorf("%+v", s)
	}
	_, a = w.attestAs("default", "nvidiadpu", nil, func([]byte) any { return evidence(make([]byte, 48)) })
	denied(t, w, a, 403, "report-data-mismatch")
	w.admin.must("PUT", "/namespaces/default/allow-unproven", trusteeapi.AllowUnproven{})
	_, a = w.attestAs("default", "nvidiadpu", nil, evidence)
	denied(t, w, a, 403, "unproven-verifier")
}
