package verifier

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/cca"
	"github.com/cofferproject/coffer/tee/verify"
	"github.com/cofferproject/coffer/test/vectors"
)

func file(t testing.TB, name string) []byte {
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "cca"), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func published(t testing.TB) (*Verifier, *verify.Input) {
	anchors, err := ParseTrustAnchors(file(t, "tastore.json"))
	if err != nil {
		t.Fatal(err)
	}
	refs, err := ParseReferences(file(t, "rvstore.json"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := New(Config{Config: verify.Config{Kind: verify.Production}, TrustAnchors: anchors, References: refs})
	if err != nil {
		t.Fatal(err)
	}
	e := &cca.Evidence{Token: file(t, "cca-example-token.cbor")}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	rd, err := base64.StdEncoding.DecodeString("V+l5riYY3gwatzFExEDXQc+SNtydUu0ZAFM4Kk0ZAlL58DcEA8NdyxVftDYtc8ZtWwSUv5OTFdPcUrjNyLhalg==")
	if err != nil {
		t.Fatal(err)
	}
	return v, &verify.Input{Evidence: b, ReportData: rd, Now: time.Now()}
}

// The published token verifies with the published CPAK, its firmware is that of
// the published reference values, and the claims have the published names.
func TestPublishedToken(t *testing.T) {
	v, in := published(t)
	rs, err := v.Verify(in)
	if err != nil {
		t.Fatal(err)
	}
	r := rs[0]
	if r.Debug || r.Simulated || len(r.Unproven) > 0 || r.Initdata != nil || len(r.Checks) < 6 {
		t.Errorf("result %+v", r)
	}
	got, err := json.Marshal(r.Claims)
	if err != nil {
		t.Fatal(err)
	}
	type claimSet struct {
		Platform map[string]any `json:"platform"`
		Realm    map[string]any `json:"realm"`
		InitData string         `json:"init_data"`
		Report   string         `json:"report_data"`
	}
	var have, want claimSet
	if err := json.Unmarshal(got, &have); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(file(t, "cca-claims.json"), &want); err != nil {
		t.Fatal(err)
	}
	same(t, "platform", have.Platform, want.Platform)
	same(t, "realm", have.Realm, want.Realm)
	if have.InitData != want.InitData || len(have.Report) != len(want.Report) {
		t.Errorf("init_data %s, report_data %s", have.InitData, have.Report)
	}
	component := func(c claimSet) map[string]any {
		return c.Platform["cca-platform-sw-components"].([]any)[0].(map[string]any)
	}
	for name := range component(want) {
		if name != "version" && component(have)[name] == nil {
			t.Errorf("software component lacks %s", name)
		}
	}
	if r.Claims["appraisal"].(map[string]any)["realm"].(map[string]any)["measurements"] != "matched" {
		t.Errorf("appraisal %v", r.Claims["appraisal"])
	}
}

// same compares names and kinds: the published claims are of another token.
func same(t *testing.T, what string, have, want map[string]any) {
	t.Helper()
	a, b := slices.Sorted(maps.Keys(have)), slices.Sorted(maps.Keys(want))
	if !slices.Equal(a, b) {
		t.Errorf("%s claims %v, published %v", what, a, b)
	}
	for name, w := range want {
		if h := have[name]; (h == nil) || (jsonKind(h) != jsonKind(w)) {
			t.Errorf("%s: %v, published %v", name, h, w)
		}
	}
}

func jsonKind(v any) string {
	switch v.(type) {
	case string:
		return "string"
	case float64:
		return "number"
	case []any:
		return "list"
	}
	return "other"
}

func TestPersonalizationValueOfPublishedToken(t *testing.T) {
	rpv, err := cca.PersonalizationValue(file(t, "cca-example-token.cbor"))
	if err != nil || !bytes.Equal(rpv, make([]byte, 64)) {
		t.Errorf("%x, %v", rpv, err)
	}
}

func FuzzStores(f *testing.F) {
	f.Add([]byte(`[{"pkey":{"kty":"EC","crv":"P-384","x":"AA","y":"AA"},"implementation-id":"00","instance-id":"01"}]`))
	f.Add([]byte(`{"platform":[{"implementation-id":"00","sw-components":[],"platform-configuration":"00"}],"realm":[]}`))
	for _, name := range []string{"tastore.json", "rvstore.json"} {
		if b, err := os.ReadFile(filepath.Join("../../../../shared/vectors/cca", name)); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = ParseTrustAnchors(b)
		_, _ = ParseReferences(b)
	})
}

func TestRealmReferences(t *testing.T) {
	v, in := published(t)
	for name, c := range map[string]struct {
		bend func(r *RealmReference)
		want string
	}{
		"RIM":       {func(r *RealmReference) { r.RIM = make([]byte, 64) }, "not matched"},
		"REM":       {func(r *RealmReference) { r.REM[3] = []byte{1} }, "not matched"},
		"RPV":       {func(r *RealmReference) { r.RPV = []byte{1} }, "not matched"},
		"RIM alone": {func(r *RealmReference) { r.REM, r.RPV = nil, nil }, "matched"},
	} {
		refs, err := ParseReferences(file(t, "rvstore.json"))
		if err != nil {
			t.Fatal(err)
		}
		c.bend(&refs.Realms[0])
		cfg := v.cfg
		cfg.References = refs
		bent, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r, err := bent.Verify(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := r[0].Claims["appraisal"].(map[string]any)["realm"].(map[string]any)["measurements"]; got != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
}

func TestNoDefaultTrust(t *testing.T) {
	v, _ := published(t)
	twice := Config{Config: verify.Config{Kind: verify.Production}, TrustAnchors: append(slices.Clone(v.cfg.TrustAnchors), v.cfg.TrustAnchors...)}
	for name, c := range map[string]Config{
		"no choice": {}, "two anchors for one instance": twice,
		"production anchors in simulation": {Config: verify.Config{Kind: verify.InsecureSimulated}, TrustAnchors: v.cfg.TrustAnchors},
		"references in simulation":         {Config: verify.Config{Kind: verify.InsecureSimulated}, References: v.cfg.References},
		"anchor without key":               {Config: verify.Config{Kind: verify.Production}, TrustAnchors: []TrustAnchor{{}}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	v, in := published(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(in); err != nil {
			b.Fatal(err)
		}
	}
}

// The standard library's part of BenchmarkVerify is two of these.
func BenchmarkBareP384(b *testing.B) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	h := make([]byte, 48)
	sig, err := ecdsa.SignASN1(rand.Reader, key, h)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !ecdsa.VerifyASN1(&key.PublicKey, h, sig) {
			b.Fatal("signature")
		}
	}
}
