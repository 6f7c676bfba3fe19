package verifier

import (
	"bytes"
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
