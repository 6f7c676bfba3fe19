package appraisal

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/ear"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/trustee/limits"
	"github.com/cofferproject/coffer/trustee/store/bolt"
	"github.com/cofferproject/coffer/trustee/tenant"
)

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// mirror is a device whose evidence is the report data in hex, with n devices.
type mirror struct {
	tee, class string
	devices    int
	unproven   []string
}

func (m mirror) Verify(in *verify.Input) ([]*verify.Result, error) {
	var got []byte
	if err := json.Unmarshal(in.Evidence, &got); err != nil {
		return nil, verify.Deny("mirror-malformed", "mirror", "evidence", err)
	}
	if !bytes.Equal(got, in.ReportData) {
		return nil, verify.Mismatch(verify.ReasonReportData, "mirror", m.tee+" report data", "", "", "")
	}
	if m.class != verify.ClassCPU && in.Initdata != nil {
		return nil, verify.Mismatch(verify.ReasonInitdataUnbound, "mirror", "initdata", "a document", "none", "")
	}
	var doc *initdata.Document
	if in.Initdata != nil {
		var err error
		if doc, err = initdata.Parse(in.Initdata); err != nil {
			doc = nil // most tests have no document worth the name
		}
	}
	var out []*verify.Result
	for range m.devices {
		r := &verify.Result{InitdataDoc: doc, TEE: m.tee, Class: m.class, Claims: map[string]any{"report_data": "00", "log": strings.Repeat("x", 10_000)}, Unproven: m.unproven}
		r.Checked("mirror", "", "")
		out = append(out, r)
	}
	return out, nil
}

type bench struct {
	s   *Service
	r   *tenant.Registry
	key *kbs.TEEKey
}

func newBench(t *testing.T, devices ...mirror) *bench {
	t.Helper()
	st, err := bolt.Open(filepath.Join(t.TempDir(), "db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	now := func() time.Time { return noon }
	r, err := tenant.New(t.Context(), st, limits.Defaults(), now)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ear.NewSigner(k, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := map[string]Factory{}
	for _, m := range devices {
		f[m.tee] = func(*tenant.Trust, collateral.Source) (verify.Verifier, error) { return m, nil }
	}
	s, err := New(Config{Registry: r, Signer: oneKey{signer}, Factories: f, Build: "test", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	ek, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := kbs.NewTEEKey(ek.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	return &bench{s, r, key}
}

func (b *bench) attest(t *testing.T, tee, extra string) (*Result, error) {
	t.Helper()
	return b.attestWith(t, tee, extra, "x")
}

func (b *bench) attestWith(t *testing.T, tee, extra, doc string) (*Result, error) {
	t.Helper()
	jwk, err := b.key.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := kbs.RuntimeDataHash(kbs.DefaultHash, "n", b.key, extra)
	if err != nil {
		t.Fatal(err)
	}
	ev, _ := json.Marshal(hash)
	return b.s.Attest(t.Context(), "id", &Attestation{
		Namespace: "default", TEE: tee, Hash: kbs.DefaultHash, Nonce: "n", Message: &kbs.Attestation{
			InitData:    &kbs.InitData{Format: "toml", Body: doc},
			RuntimeData: kbs.RuntimeData{Nonce: "n", TEEPubKey: jwk}, TEEEvidence: kbs.Evidence{Primary: ev, Additional: extra},
		},
	})
}

// device gives the evidence of additional devices: their runtime data does not
// cover the text that they are part of.
func (b *bench) device(t *testing.T) string {
	t.Helper()
	hash, err := kbs.DeviceRuntimeDataHash(kbs.DefaultHash, "n", b.key)
	if err != nil {
		t.Fatal(err)
	}
	ev, _ := json.Marshal(hash)
	return string(ev)
}

func TestCompositeEvidence(t *testing.T) {
	b := newBench(t, mirror{"az-snp-vtpm", verify.ClassCPU, 1, nil}, mirror{"nvidia", verify.ClassGPU, 2, []string{"nvidia-rim"}}, mirror{"fabric", verify.ClassSwitch, 1, nil})
	d := b.device(t)
	for _, spelling := range []string{"az-snp-vtpm", "azsnpvtpm"} {
		r, err := b.attest(t, spelling, `{"nvidia":`+d+`,"fabric":`+d+`}`)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"cpu0", "gpu0", "gpu1", "switch0"} {
			s, ok := r.Submods[name]
			if !ok || s.Status != ear.Contraindicated {
				t.Errorf("%s: %+v", name, s)
			}
		}
		if len(r.Submods) != 4 || len(r.Appraisals) != 4 || r.Appraisals[0].Submod != "cpu0" || len(r.Appraisals[0].Findings) == 0 {
			t.Errorf("%d submodules, appraisals %+v", len(r.Submods), r.Appraisals)
		}
		g := r.Submods["gpu1"]
		if g.Coffer.TEE != "nvidia" || len(g.Coffer.Unproven) != 1 {
			t.Errorf("additions %+v", g.Coffer)
		}
		claims, _ := g.Evidence["runtime_data_claims"].(map[string]any)
		if _, has := claims["additional-evidence"]; has || claims["nonce"] != "n" {
			t.Errorf("runtime data of a device: %v", claims)
		}
		// Large claims are in the token by their digest.
		if l, ok := g.Evidence["nvidia"].(map[string]any)["log"].(map[string]any); !ok || l["sha256"] == "" {
			t.Errorf("evidence %.200v", g.Evidence)
		}
		if r.Submods["cpu0"].Coffer.TEE != "az-snp-vtpm" || r.Submods["cpu0"].Extensions["ear.trustee.identifiers"] == nil {
			t.Errorf("cpu0 %+v", r.Submods["cpu0"])
		}
	}
}

func TestCompositeEvidenceRefused(t *testing.T) {
	b := newBench(t, mirror{"az-snp-vtpm", verify.ClassCPU, 1, nil}, mirror{"nvidia", verify.ClassGPU, 1, nil}, mirror{"many", verify.ClassGPU, 80, nil})
	d := b.device(t)
	for name, c := range map[string]struct {
		extra  string
		reason denial.Reason
	}{
		"twice":         {`{"nvidia":` + d + `,"nvidia":` + d + `}`, ReasonAdditionalDevices},
		"two spellings": {`{"azsnpvtpm":` + d + `,"az-snp-vtpm":` + d + `}`, ReasonAdditionalDevices},
		"a list":        {`[` + d + `]`, ReasonAdditionalDevices},
		"padded":        {`{"nvidia":` + d + `}{}`, ReasonAdditionalDevices},
		"oversized":     {`{"nvidia":` + d + strings.Repeat(" ", kbs.MaxAdditional) + `}`, ReasonAdditionalDevices},
		"cut":           {`{"nvidia":` + d, ReasonAdditionalDevices},
		"too many TEEs": {`{` + strings.Repeat(`"x":1,`, 1) + many(20) + `}`, ReasonAdditionalDevices},
		"devices":       {`{"many":` + d + `}`, ReasonAdditionalDevices},
		"unknown":       {`{"toaster":` + d + `}`, ReasonTEEUnsupported},
		"other nonce":   {`{"nvidia":"AAAA"}`, verify.ReasonReportData},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.attest(t, "az-snp-vtpm", c.extra)
			if d, ok := denial.As(err); !ok || d.Reason != c.reason || d.Claim == "" {
				t.Errorf("got %v, want %s", err, c.reason)
			}
		})
	}
	// A primary's evidence that does not cover the additional text.
	if _, err := b.s.Attest(t.Context(), "id", &Attestation{Namespace: "nowhere"}); err == nil {
		t.Error("a namespace that does not exist")
	}
	if _, err := b.attest(t, "snp", ""); err == nil {
		t.Error("a TEE without a verifier")
	}
}

// The verified initdata's list of devices is the trustee's to hold evidence to as
// well: a guest that does not know the list leaves them out.
func TestDemandedDevices(t *testing.T) {
	b := newBench(t, mirror{"snp", verify.ClassCPU, 1, nil}, mirror{"nvidia", verify.ClassGPU, 1, nil}, mirror{"nvidiadpu", verify.ClassDPU, 1, nil})
	doc := func(list string) string {
		return "version = '0.1.0'\nalgorithm = 'sha256'\n[data]\n'aa.toml' = \"additional_devices = " + list + "\"\n"
	}
	d := b.device(t)
	for name, c := range map[string]struct {
		list, extra string
		reason      denial.Reason
	}{
		"none asked for":   {"[]", "", ""},
		"asked for":        {"['nvidia']", `{"nvidia":` + d + `}`, ""},
		"more than that":   {"['nvidia']", `{"nvidia":` + d + `,"nvidiadpu":` + d + `}`, ""},
		"other spelling":   {"['nvidia-dpu']", `{"nvidiadpu":` + d + `}`, ""},
		"left out":         {"['nvidia']", "", ReasonDeviceMissing},
		"another":          {"['nvidia']", `{"nvidiadpu":` + d + `}`, ReasonDeviceMissing},
		"one of two":       {"['nvidia', 'nvidiadpu']", `{"nvidia":` + d + `}`, ReasonDeviceMissing},
		"not a list":       {"1", "", verify.ReasonInitdataMalformed},
		"only in spelling": {"['NVIDIA']", `{"nvidia":` + d + `}`, verify.ReasonInitdataMalformed},
	} {
		_, err := b.attestWith(t, "snp", c.extra, doc(c.list))
		if d, ok := denial.As(err); c.reason == "" && err != nil || c.reason != "" && (!ok || d.Reason != c.reason || d.Claim == "") {
			t.Errorf("%s: %v, want %q", name, err, c.reason)
		}
	}
}

// What fits into no token is refused with a reason, before there is a token.
func TestTokenTooLarge(t *testing.T) {
	b := newBench(t, mirror{"snp", verify.ClassCPU, 1, nil}, mirror{"few", verify.ClassGPU, 8, nil}, mirror{"many", verify.ClassGPU, maxDevices - 1, slices.Repeat([]string{strings.Repeat("v", 60)}, 60)})
	if _, err := b.attest(t, "snp", `{"few":`+b.device(t)+`}`); err != nil {
		t.Errorf("eight devices: %v", err)
	}
	_, err := b.attest(t, "snp", `{"many":`+b.device(t)+`}`)
	if d, ok := denial.As(err); !ok || d.Reason != ReasonTokenTooLarge || d.Measured == "" {
		t.Errorf("got %v", err)
	}
}

func many(n int) string {
	var l []string
	for i := range n {
		l = append(l, `"t`+string(rune('a'+i))+`":1`)
	}
	return strings.Join(l, ",")
}

// A policy by another id must exist; the default need not.
func TestPolicyByID(t *testing.T) {
	b := newBench(t, mirror{"m", verify.ClassCPU, 1, nil})
	try := func(id string) (*Result, error) {
		jwk, _ := b.key.MarshalJSON()
		hash, _ := kbs.RuntimeDataHash(kbs.DefaultHash, "n", b.key, "")
		ev, _ := json.Marshal(hash)
		return b.s.Attest(t.Context(), "id", &Attestation{Namespace: "default", TEE: "m", Hash: kbs.DefaultHash, Nonce: "n", Policy: id, Message: &kbs.Attestation{
			RuntimeData: kbs.RuntimeData{Nonce: "n", TEEPubKey: jwk}, TEEEvidence: kbs.Evidence{Primary: ev},
		}})
	}
	_, err := try("strict")
	if d, ok := denial.As(err); !ok || d.Reason != ReasonPolicyUnknown {
		t.Errorf("got %v", err)
	}
	if _, err := b.r.SetPolicy(t.Context(), "default", "strict_cpu", "me", "package policy\ntrust_claims := {\"executables\": 3}"); err != nil {
		t.Fatal(err)
	}
	r, err := try("strict")
	if err != nil || r.Submods["cpu0"].PolicyID != "strict" || r.Submods["cpu0"].Status != ear.Affirming {
		t.Errorf("%+v, %v", r, err)
	}
}

// Every verifier can be made for a production namespace, and for a simulated one.
func TestBuiltin(t *testing.T) {
	f := Builtin(make([]byte, 32), false)
	if f["sample"] != nil || f["sampledevice"] != nil {
		t.Error("samples without the switch")
	}
	if s := Builtin(make([]byte, 32), true); s["sample"] == nil || s["sampledevice"] == nil {
		t.Error("no samples with the switch")
	}
	for _, tee := range []string{"snp", "tdx", "sgx", "tpm", "az-snp-vtpm", "az-tdx-vtpm", "cca", "csv", "nvidia", "nitro", "gcp", "se", "hygondcu", "nvidiadpu"} {
		make, ok := f[tee]
		if !ok {
			t.Errorf("%s: no verifier", tee)
			continue
		}
		for _, simulated := range []bool{false, true} {
			tr := &tenant.Trust{}
			tr.Namespace.Name, tr.Namespace.Simulated = "x", simulated
			v, err := make(tr, nil)
			if tee == "nvidiadpu" && !simulated {
				if d, ok := denial.As(err); !ok || d.Claim == "" {
					t.Errorf("a DPU without a root: %v", err)
				}
				continue
			}
			if err != nil || v == nil {
				t.Errorf("%s, simulated %t: %v", tee, simulated, err)
				continue
			}
			// What is no evidence is denied with a reason, not a fault.
			_, err = v.Verify(&verify.Input{Evidence: []byte(`{}`), ReportData: bytes.Repeat([]byte{1}, 48), Nonce: "n", Now: noon})
			if d, ok := denial.As(err); !ok || d.Component == "" || d.Claim == "" {
				t.Errorf("%s, simulated %t: %v", tee, simulated, err)
			}
		}
	}
}

// After a change everything is prepared once, however many ask at that moment.
func TestPreparedOnce(t *testing.T) {
	b := newBench(t, mirror{tee: "a", class: verify.ClassCPU, devices: 1})
	var made atomic.Int32
	b.s.cfg.Factories["slow"] = func(*tenant.Trust, collateral.Source) (verify.Verifier, error) {
		made.Add(1)
		time.Sleep(50 * time.Millisecond)
		return mirror{}, nil
	}
	for round := int32(1); round < 3; round++ {
		if _, err := b.r.SetAllowUnproven(t.Context(), "default", []string{fmt.Sprint("v", round)}); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				if p, err := b.s.prepare(t.Context(), "default"); err != nil || len(p.trust.Namespace.AllowUnproven) != 1 {
					t.Errorf("%+v %v", p, err)
				}
			})
		}
		wg.Wait()
		if n := made.Load(); n != round {
			t.Errorf("prepared %d times after %d changes", n, round)
		}
	}
}

// oneKey signs for every namespace.
type oneKey struct{ *ear.Signer }

func (k oneKey) Sign(_ context.Context, _ string, c *ear.Claims) (string, error) {
	return k.Signer.Sign(c)
}
