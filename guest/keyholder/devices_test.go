package keyholder

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/aapb"
	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/tee/attest"
)

// recorder is a device or CPU that keeps what it was asked to attest.
type recorder struct {
	tee      string
	evidence string
	err      error
	asked    []byte
	closed   int
}

func (r *recorder) TEE() string                   { return r.tee }
func (*recorder) RequestExtra() *kbs.RequestExtra { return nil }
func (r *recorder) Close() error                  { r.closed++; return nil }
func (r *recorder) Evidence(_ context.Context, rd []byte, _ *kbs.TPMChallenge) (json.RawMessage, error) {
	r.asked = rd
	return json.RawMessage(r.evidence), r.err
}

func opener(r *recorder) func() (Attester, error) { return func() (Attester, error) { return r, nil } }

// The published vectors (shared facts: guest-components, section 1): what a device
// and the CPU attest, with the CPU's evidence bound to the text of the devices'.
func TestCompositeByThePublishedRule(t *testing.T) {
	key, err := kbs.ParseTEEKey([]byte(`{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"AQ","y":"Ag"}`))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	for want, c := range map[string]struct {
		devices    []string
		additional string
		cpu        string
	}{
		"none": {nil, "", "8a0dedde8eaf03a25760757ffbcd91cacda23aa699d3cd311deb57f51110cfef59b397dba35234c48747f3e6efc92558"},
		"one":  {[]string{"nvidia"}, `{"nvidia":{}}`, "424701e39c2044e74ba74fe61591e67cc0fdeceec50f6d0c5c242d62bbaba62eee1c2453d6b235ebf29c4e445234e173"},
		"two":  {[]string{"hygondcu", "nvidia"}, `{"hygondcu":{"<&>":1},"nvidia":{}}`, ""},
	} {
		cpu, gpu, dcu := &recorder{tee: "snp", evidence: `{}`}, &recorder{tee: "nvidia", evidence: `{}`}, &recorder{tee: "hygondcu", evidence: `{"<&>":1}`}
		cl := &client{log: log, devices: &devices{want: c.devices, log: log, open: map[string]func() (Attester, error){"nvidia": opener(gpu), "hygondcu": opener(dcu)}}}
		b, err := cl.attestation(t.Context(), cpu, key, &kbs.Challenge{Nonce: "bm9uY2U=", ExtraParams: json.RawMessage(`""`)}, &kbs.ChallengeExtra{}, nil)
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		a, err := kbs.DecodeAttestation(b)
		if err != nil || a.TEEEvidence.Additional != c.additional {
			t.Errorf("%s: %+v, %v", want, a, err)
		}
		if got := hex.EncodeToString(cpu.asked); c.cpu != "" && got != c.cpu {
			t.Errorf("%s: the CPU attests %s", want, got)
		}
		const device = "8b396d072096bda2ab91b96dadc67d92ddfeba4779b19be2d336a501a3618ed5cc1f900b0d99b8ad760340a6df206a54"
		if got := hex.EncodeToString(gpu.asked); len(c.devices) > 0 && got != device {
			t.Errorf("%s: the device attests %s", want, got)
		}
	}
}

func TestDevicesThatInitdataAsksFor(t *testing.T) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	good, other := &recorder{tee: "nvidia", evidence: `{}`}, &recorder{tee: "nvidia", evidence: `{}`}
	unasked := &recorder{tee: "hygondcu", evidence: `{}`}
	absent := func() (Attester, error) { return nil, fmt.Errorf("sysfs: %w", attest.ErrNotPresent) }
	for name, c := range map[string]struct {
		want   []string
		open   map[string]func() (Attester, error)
		reason denial.Reason
	}{
		"there":       {[]string{"nvidia"}, map[string]func() (Attester, error){"nvidia": opener(good), "hygondcu": opener(unasked)}, ""},
		"not there":   {[]string{"nvidia"}, map[string]func() (Attester, error){"nvidia": absent}, ReasonDeviceMissing},
		"unknown":     {[]string{"toaster"}, map[string]func() (Attester, error){"nvidia": opener(other)}, ReasonDeviceMissing},
		"one of two":  {[]string{"hygondcu", "nvidia"}, map[string]func() (Attester, error){"nvidia": absent, "hygondcu": opener(unasked)}, ReasonDeviceMissing},
		"cannot open": {[]string{"nvidia"}, map[string]func() (Attester, error){"nvidia": func() (Attester, error) { return nil, errors.New("no helper") }}, ReasonDeviceFailed},
		"silent":      {[]string{"nvidia"}, map[string]func() (Attester, error){"nvidia": opener(&recorder{tee: "nvidia", err: context.DeadlineExceeded})}, ReasonDeviceFailed},
		"no JSON":     {[]string{"nvidia"}, map[string]func() (Attester, error){"nvidia": opener(&recorder{tee: "nvidia", evidence: `{"a":`})}, ReasonDeviceFailed},
		"two values":  {[]string{"nvidia"}, map[string]func() (Attester, error){"nvidia": opener(&recorder{tee: "nvidia", evidence: `{},"snp":{}`})}, ReasonDeviceFailed},
		"too large": {
			[]string{"nvidia"}, map[string]func() (Attester, error){"nvidia": opener(&recorder{tee: "nvidia", evidence: `"` + strings.Repeat("x", kbs.MaxAdditional) + `"`})},
			ReasonDeviceTooLarge,
		},
	} {
		d := &devices{want: c.want, open: c.open, log: log}
		e, err := d.evidence(t.Context(), []byte("report data"))
		if c.reason == "" {
			if err != nil || e != `{"nvidia":{}}` {
				t.Errorf("%s: %s, %v", name, e, err)
			}
			d.close()
			continue
		}
		got, ok := denial.As(err)
		if !ok || got.Reason != c.reason || got.Component != Component || got.Claim == "" || e != "" {
			t.Errorf("%s: %q, %v, want %s", name, e, err, c.reason)
		}
	}
	if good.closed != 1 {
		t.Errorf("the device was closed %d times", good.closed)
	}
	// Only looked at where nobody asks for it.
	if unasked.closed == 0 {
		t.Error("a device that nobody asks for is kept open")
	}
}

// The attestation agent's clients get the devices' evidence over report data of
// their own.
func TestAdditionalEvidenceForWorkloads(t *testing.T) {
	k := simpleKBS(t)
	aa := &initdata.AAConfig{AdditionalDevices: []string{"nvidia"}}
	aa.TokenConfigs.KBS = &initdata.AAKBS{URL: k.URL, Cert: k.CAPEM()}
	text, err := initdata.EncodeConfig(aa)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := initdata.Build(&initdata.Document{Version: initdata.Version, Algorithm: initdata.SHA256, Data: map[string]string{initdata.KeyAA: text}})
	if err != nil {
		t.Fatal(err)
	}
	p := runPod(t, doc, openFake) // which has no attester for it
	tees, err := p.aa.GetAdditionalTees(t.Context(), &aapb.GetAdditionalTeesRequest{})
	if err != nil || len(tees.GetAdditionalTees()) != 1 || tees.GetAdditionalTees()[0] != "nvidia" {
		t.Errorf("%v, %v", tees, err)
	}
	_, err = p.aa.GetAdditionalEvidence(t.Context(), &aapb.GetAdditionalEvidenceRequest{RuntimeData: []byte("x")})
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), string(ReasonDeviceMissing)) {
		t.Errorf("got %v", err)
	}
	if _, err = p.get(t, "kbs:///default/secret/1"); err == nil || !strings.Contains(err.Error(), string(ReasonDeviceMissing)) {
		t.Errorf("the secret without the device: %v", err)
	}
	plain := runPod(t, document(t, k.URL, k.CAPEM()), openFake)
	if e, err := plain.aa.GetAdditionalEvidence(t.Context(), &aapb.GetAdditionalEvidenceRequest{}); err != nil || len(e.GetEvidence()) != 0 {
		t.Errorf("no devices asked for: %q, %v", e.GetEvidence(), err)
	}
}
