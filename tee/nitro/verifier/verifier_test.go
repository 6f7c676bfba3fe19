package verifier

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/internal/certchain"
	"github.com/cofferproject/coffer/tee/nitro"
	"github.com/cofferproject/coffer/tee/nitro/attester"
	"github.com/cofferproject/coffer/tee/nitro/cbor"
	"github.com/cofferproject/coffer/tee/nitro/measure"
	"github.com/cofferproject/coffer/tee/nitro/nsm"
	"github.com/cofferproject/coffer/tee/nitro/sim"
	"github.com/cofferproject/coffer/tee/verify"
)

const note = "simulated Nitro Secure Module: nothing is protected"

var (
	now    = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	report = bytes.Repeat([]byte{0x3c}, 48)
	plain  = []byte("version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"aa.toml\" = \"x\"\n")
)

// machine is one simulated machine with one enclave.
type machine struct {
	root    *x509.Certificate
	enclave *sim.Enclave
}

func newMachine(t testing.TB, debug bool) *machine {
	t.Helper()
	key, root, err := sim.NewRoot(now)
	if err != nil {
		t.Fatal(err)
	}
	e, err := sim.Launch(key, root, &sim.Inputs{Kernel: []byte("kernel"), Initrd: []byte("initrd"), Cmdline: "console=ttyS0", Instance: "i-1", Debug: debug}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	return &machine{root, e}
}

func (m *machine) config(allow ...string) verify.Config {
	return verify.Config{Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{m.root}, AllowUnproven: allow}
}

func (m *machine) verifier(t testing.TB) *Verifier {
	t.Helper()
	v, err := New(m.config(UnprovenEnclave, UnprovenTPM))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// evidence starts the guest: initdata into its register, then evidence.
func (m *machine) evidence(t testing.TB, doc []byte) *verify.Input {
	t.Helper()
	a, err := attester.New(t.Context(), m.enclave, note)
	if err != nil {
		t.Fatal(err)
	}
	digest := nitro.NoInitdata()
	if doc != nil {
		sum := sha512.Sum384(doc)
		digest = sum[:]
	}
	register, err := a.Register(8)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Extend(t.Context(), register, digest); err != nil {
		t.Fatal(err)
	}
	b, err := a.Evidence(t.Context(), report, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &verify.Input{Evidence: b, ReportData: report, Initdata: doc, Now: now}
}

func want(t *testing.T, name string, err error, reason denial.Reason) {
	t.Helper()
	if d, ok := denial.As(err); !ok || d.Reason != reason || d.Claim == "" {
		t.Errorf("%s: %v, want %s", name, err, reason)
	}
}

// From the guest's register to the trustee's claims, with what `coffer measure`
// says of the same inputs.
func TestEnclave(t *testing.T) {
	m := newMachine(t, false)
	out, err := m.verifier(t).Verify(m.evidence(t, plain))
	if err != nil {
		t.Fatal(err)
	}
	r := out[0]
	img, err := measure.EIF(strings.NewReader("kernel"), "console=ttyS0", strings.NewReader("initrd"))
	if err != nil {
		t.Fatal(err)
	}
	pcrs, _ := r.Claims["pcrs"].(map[string]any)
	for name, v := range map[string][]byte{"pcr0": img.PCR0, "pcr1": img.PCR1, "pcr2": img.PCR2, "pcr3": make([]byte, 48), "pcr4": measure.Instance("i-1"), "pcr16": nitro.InitdataPCR(plain)} {
		if pcrs[name] != hex.EncodeToString(v) {
			t.Errorf("%s: %v, not %x", name, pcrs[name], v)
		}
	}
	// Documents show locked registers only: the hardware's and initdata's.
	if len(pcrs) != 17 || r.Debug || !r.Simulated || r.InitdataDoc == nil || r.Initdata.Algorithm != "sha384" || r.Claims["kind"] != "enclave" {
		t.Errorf("%+v", r)
	}
	if r.Claims["report_data"] != hex.EncodeToString(append(bytes.Clone(report), make([]byte, 16)...)) {
		t.Errorf("%v", r.Claims["report_data"])
	}
}

func TestInitdata(t *testing.T) {
	m := newMachine(t, false)
	out, err := m.verifier(t).Verify(m.evidence(t, nil))
	if err != nil || out[0].Initdata != nil {
		t.Errorf("without a document: %v", err)
	}
	in := newMachine(t, false)
	with := in.evidence(t, plain)
	with.Initdata = nil
	_, err = in.verifier(t).Verify(with)
	want(t, "document withheld", err, verify.ReasonInitdataMissing)
	with.Initdata = append(bytes.Clone(plain), '\n')
	_, err = in.verifier(t).Verify(with)
	want(t, "another document", err, verify.ReasonInitdataMismatch)
	with.Initdata, with.InsecureSkipInitdata = nil, true
	if _, err := in.verifier(t).Verify(with); err != nil {
		t.Error(err)
	}
	none := m.evidenceAgain(t)
	none.Initdata = plain
	_, err = m.verifier(t).Verify(none)
	want(t, "document out of nowhere", err, verify.ReasonInitdataUnexpected)
	// The register was not locked, so no document shows it.
	open := newMachine(t, false)
	_, err = open.verifier(t).Verify(open.evidenceAgain(t))
	want(t, "not extended", err, verify.ReasonInitdataMismatch)
	bad := newMachine(t, false)
	_, err = bad.verifier(t).Verify(bad.evidence(t, []byte("version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n")))
	want(t, "another algorithm", err, verify.ReasonInitdataMalformed)
}

// evidenceAgain asks for evidence without touching a register.
func (m *machine) evidenceAgain(t testing.TB) *verify.Input {
	a, err := attester.New(t.Context(), m.enclave, note)
	if err != nil {
		t.Fatal(err)
	}
	b, err := a.Evidence(t.Context(), report, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &verify.Input{Evidence: b, ReportData: report, Now: now}
}

// The register takes initdata once, and nothing else afterwards.
func TestRegisters(t *testing.T) {
	m := newMachine(t, false)
	m.evidence(t, plain)
	a, err := attester.New(t.Context(), m.enclave, note)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Extend(t.Context(), nitro.PCRInitdata, make([]byte, 48)); err == nil {
		t.Error("extended twice")
	}
	var refused nsm.Error
	if _, err := (nsm.Module{Device: m.enclave}).Extend(t.Context(), nitro.PCRInitdata, make([]byte, 48)); !errors.As(err, &refused) || refused != "ReadOnlyIndex" {
		t.Errorf("the module: %v", err)
	}
	if err := a.Extend(t.Context(), nitro.PCRImage, make([]byte, 48)); !errors.Is(err, attest.ErrUnsupported) {
		t.Errorf("the image's register: %v", err)
	}
	if _, err := a.Register(4); !errors.Is(err, attest.ErrUnsupported) {
		t.Errorf("PCR 4: %v", err)
	}
	if _, err := a.Register(16); !errors.Is(err, attest.ErrUnsupported) {
		t.Errorf("PCR 16 is initdata's own: %v", err)
	}
	if err := a.Extend(t.Context(), 17, make([]byte, 48)); err != nil {
		t.Error(err)
	}
	if v, err := a.Read(t.Context(), 17); err != nil || !bytes.Equal(v, nitro.Extend(make([]byte, 48), make([]byte, 48))) {
		t.Errorf("%x, %v", v, err)
	}
}

func TestDebugEnclave(t *testing.T) {
	m := newMachine(t, true)
	out, err := m.verifier(t).Verify(m.evidence(t, plain))
	if err != nil || !out[0].Debug {
		t.Errorf("%v, %v", out, err)
	}
}

func TestNitroTPM(t *testing.T) {
	m := newMachine(t, false)
	values := map[int][]byte{}
	for i := range 24 {
		values[i] = bytes.Repeat([]byte{byte(i + 1)}, 48)
	}
	values[nitro.PCRTPM] = nitro.InitdataPCR(plain)
	input := func() *verify.Input {
		d, err := m.enclave.TPMDocument(values, append(bytes.Clone(report), make([]byte, 16)...))
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(&nitro.Evidence{Document: d, Simulation: note})
		if err != nil {
			t.Fatal(err)
		}
		return &verify.Input{Evidence: b, ReportData: report, Initdata: plain, Now: now}
	}
	out, err := m.verifier(t).Verify(input())
	if err != nil || out[0].Claims["kind"] != "nitrotpm" || out[0].InitdataDoc == nil {
		t.Fatalf("%v", err)
	}
	v, err := New(m.config(UnprovenEnclave))
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(input())
	want(t, "only enclaves allowed", err, verify.ReasonUnproven)
	// Initdata in a register that anybody can reset is in no register.
	values[16], values[nitro.PCRTPM] = values[nitro.PCRTPM], make([]byte, 48)
	_, err = m.verifier(t).Verify(input())
	want(t, "in PCR 16", err, verify.ReasonInitdataUnexpected)
	delete(values, 4)
	_, err = m.verifier(t).Verify(input())
	want(t, "no PCR 4", err, ReasonRegisterMissing)
}

func TestRoots(t *testing.T) {
	root, err := certchain.EmbeddedRoot(rootPEM, rootSPKI)
	if err != nil {
		t.Fatal(err)
	}
	// As AWS publishes it.
	const published = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
	if have := fingerprint(root); have != published {
		t.Errorf("fingerprint %s", have)
	}
	m := newMachine(t, false)
	in := m.evidence(t, plain)
	v, err := New(verify.Config{Kind: verify.Production, AllowUnproven: []string{UnprovenEnclave}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(in)
	want(t, "simulated in production", err, verify.ReasonSimulated)
	var e nitro.Evidence
	if err := json.Unmarshal(in.Evidence, &e); err != nil {
		t.Fatal(err)
	}
	e.Simulation = ""
	if in.Evidence, err = json.Marshal(e); err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(in)
	want(t, "simulated root in production", err, ReasonChainUntrusted)
	_, err = m.verifier(t).Verify(in)
	want(t, "no note", err, verify.ReasonNotSimulated)
	off, err := New(verify.Config{Kind: verify.Production})
	if err != nil {
		t.Fatal(err)
	}
	_, err = off.Verify(in)
	want(t, "off by default", err, verify.ReasonUnproven)
}

func TestDocumentRefuses(t *testing.T) {
	m := newMachine(t, false)
	d, err := m.enclave.Document(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseDocument(d); err != nil {
		t.Fatal(err)
	}
	tagged, err := cbor.Decode(d)
	if err != nil {
		t.Fatal(err)
	}
	parts, _ := tagged.([]any)
	b, err := cbor.Encode(cbor.Tag{Number: 18, Value: parts})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseDocument(b); err != nil {
		t.Errorf("tagged: %v", err)
	}
	raw, _ := parts[2].([]byte)
	v, err := cbor.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	payload, _ := v.(cbor.Map)
	set := func(name string, v any) cbor.Map {
		var out cbor.Map
		for _, x := range payload {
			if x.Key == name {
				x.Value = v
			}
			out = append(out, x)
		}
		return out
	}
	long := make([]byte, 1025)
	for name, p := range map[string]any{
		"not a map": []any{}, "empty": cbor.Map{}, "no module": set("module_id", ""), "long module": set("module_id", strings.Repeat("x", 300)), "digest": set("digest", "SHA256"),
		"no time": set("timestamp", uint64(0)), "negative time": set("timestamp", int64(-1)), "far time": set("timestamp", uint64(1)<<60), "no registers": set("pcrs", cbor.Map{}),
		"short register": set("pcrs", cbor.Map{{Key: uint64(0), Value: make([]byte, 32)}}), "register 32": set("pcrs", cbor.Map{{Key: uint64(32), Value: make([]byte, 48)}}),
		"register by name": set("pcrs", cbor.Map{{Key: "0", Value: make([]byte, 48)}}), "no certificate": set("certificate", nil), "long certificate": set("certificate", long),
		"empty bundle": set("cabundle", []any{}), "long user data": set("user_data", long), "nonce of text": set("nonce", "x"), "long key": set("public_key", long),
		"unknown member": append(set("", nil), cbor.Member{Key: "x", Value: nil}), "two kinds": append(set("", nil), cbor.Member{Key: "nitrotpm_pcrs", Value: cbor.Map{{Key: uint64(0), Value: make([]byte, 48)}}}),
		"missing": payload[1:],
	} {
		b, err := cbor.Encode(p)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := cbor.Encode([]any{parts[0], parts[1], b, parts[3]})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseDocument(doc); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, p := range map[string]any{
		"three parts": parts[:3], "another algorithm": []any{[]byte{0xa1, 1, 0x26}, parts[1], parts[2], parts[3]}, "a header": []any{parts[0], cbor.Map{{Key: uint64(4), Value: uint64(1)}}, parts[2], parts[3]},
		"short signature": []any{parts[0], parts[1], parts[2], make([]byte, 64)}, "no payload": []any{parts[0], parts[1], nil, parts[3]}, "another tag": cbor.Tag{Number: 17, Value: parts},
	} {
		b, err := cbor.Encode(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseDocument(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func fingerprint(c *x509.Certificate) string {
	h := sha256.Sum256(c.Raw)
	return hex.EncodeToString(h[:])
}

func FuzzVerify(f *testing.F) {
	m := newMachine(f, false)
	in := m.evidence(f, plain)
	f.Add([]byte(in.Evidence))
	f.Add([]byte(`{"document":"hEShATgioEFA9g=="}`))
	v := m.verifier(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := v.Verify(&verify.Input{Evidence: b, ReportData: make([]byte, 48), Now: now}); err == nil {
			t.Error("accepted")
		} else if _, ok := denial.As(err); !ok {
			t.Errorf("not a denial: %v", err)
		}
	})
}

func FuzzDocument(f *testing.F) {
	m := newMachine(f, false)
	d, err := m.enclave.Document([]byte("u"), []byte("n"), []byte("p"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(d)
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := parseDocument(b); err == nil && (len(d.certificates) < 2 || len(d.pcrs) == 0 || len(d.signature) != 96) {
			t.Errorf("%+v", d)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	m := newMachine(b, false)
	in, v := m.evidence(b, plain), m.verifier(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(in); err != nil {
			b.Fatal(err)
		}
	}
}

// The budget of a verification with a cached chain.
func TestAllocations(t *testing.T) {
	m := newMachine(t, false)
	in, v := m.evidence(t, plain), m.verifier(t)
	r := testing.Benchmark(func(b *testing.B) {
		for range b.N {
			if _, err := v.Verify(in); err != nil {
				b.Fatal(err)
			}
		}
	})
	if n := r.AllocedBytesPerOp(); n > 60<<10 {
		t.Errorf("%d bytes allocated for each verification, at most 60 KB", n)
	}
}

// A chain that was good stays so only while its certificates are valid.
func TestCachedChainExpires(t *testing.T) {
	m := newMachine(t, false)
	in, v := m.evidence(t, plain), m.verifier(t)
	if _, err := v.Verify(in); err != nil {
		t.Fatal(err)
	}
	later := *in
	later.Now = in.Now.AddDate(100, 0, 0)
	_, err := v.Verify(&later)
	if d, ok := denial.As(err); !ok || d.Reason != ReasonChainExpired {
		t.Errorf("%v", err)
	}
}
