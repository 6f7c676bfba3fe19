package sim

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/simhw"
	"github.com/cofferproject/coffer/tee/collateral"
	"github.com/cofferproject/coffer/tee/nvidia"
	"github.com/cofferproject/coffer/tee/nvidia/verifier"
	"github.com/cofferproject/coffer/tee/policy"
	"github.com/cofferproject/coffer/tee/verify"
)

var (
	now  = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	data = slices.Repeat([]byte{0x5a}, 48)
)

func newGPU(t *testing.T) *GPU {
	t.Helper()
	g, err := New(now)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// believing is the verifier of a namespace that knows the root.
func believing(t *testing.T, g *GPU, unproven ...string) *verifier.Verifier {
	t.Helper()
	items, err := g.Collateral(now)
	if err != nil {
		t.Fatal(err)
	}
	v, err := verifier.New(verify.Config{
		Kind: verify.InsecureSimulated, SimulatedRoots: []*x509.Certificate{g.Root()}, AllowUnproven: unproven, Collateral: collateral.NewSet(items...),
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func input(t *testing.T, g *GPU) *verify.Input {
	t.Helper()
	b, err := g.Evidence(data[:32], "a note")
	if err != nil {
		t.Fatal(err)
	}
	return &verify.Input{Evidence: b, ReportData: data, Now: now}
}

// With its own manifests the default policy affirms what the device runs; without
// leave for them it does not.
func TestAppraised(t *testing.T) {
	g := newGPU(t)
	for _, c := range []struct {
		unproven                   []string
		executables, configuration int8
	}{{[]string{verifier.UnprovenRIM}, 3, 3}, {nil, 33, 36}} {
		out, err := believing(t, g, c.unproven...).Verify(input(t, g))
		if err != nil {
			t.Fatal(err)
		}
		if len(out) != 1 || !out[0].Simulated || out[0].SimulationNote != "a note" || out[0].Class != verify.ClassGPU {
			t.Fatalf("%+v", out)
		}
		p, err := policy.Default(out[0].Class)
		if err != nil {
			t.Fatal(err)
		}
		refs, err := policy.NewReferences(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		v, err := p.Appraise(t.Context(), out[0], nil, refs, now)
		if err != nil {
			t.Fatal(err)
		}
		// The hardware's claim is capped: nothing is protected.
		if v.Vector.Executables != c.executables || v.Vector.Configuration != c.configuration || v.Vector.Hardware != 32 {
			t.Errorf("%v: %+v", c.unproven, v.Vector)
		}
	}
}

func TestRefused(t *testing.T) {
	g, other := newGPU(t), newGPU(t)
	v := believing(t, g)
	refused := func(name string, in *verify.Input, want denial.Reason) {
		t.Helper()
		_, err := v.Verify(in)
		if d, ok := denial.As(err); !ok || d.Reason != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	in := input(t, g)
	in.ReportData = slices.Repeat([]byte{1}, 48)
	refused("another nonce", in, verify.ReasonReportData)
	refused("another machine's device", input(t, other), verifier.ReasonChainUntrusted)

	in = input(t, g)
	e, err := nvidia.Parse(in.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	e.Devices = append(e.Devices, e.Devices[0])
	if in.Evidence, err = json.Marshal(e); err != nil {
		t.Fatal(err)
	}
	refused("one device twice", in, verifier.ReasonDeviceRepeated)

	report, err := e.Devices[0].ReportBytes()
	if err != nil {
		t.Fatal(err)
	}
	report[60] ^= 1 // a measurement
	e.Devices = e.Devices[:1]
	e.Devices[0].Report = base64.StdEncoding.EncodeToString(report)
	if in.Evidence, err = json.Marshal(e); err != nil {
		t.Fatal(err)
	}
	refused("a bent report", in, verifier.ReasonReportSignature)

	p, err := verifier.New(verify.Config{Kind: verify.Production})
	if err != nil {
		t.Fatal(err)
	}
	v = p
	refused("in production", input(t, g), verify.ReasonSimulated)
}

// A device is the same after it was kept; nothing of it looks like NVIDIA's.
func TestKept(t *testing.T) {
	g := newGPU(t)
	b, err := g.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Load(b)
	if err != nil || again.UUID() != g.UUID() || !again.Root().Equal(g.Root()) {
		t.Fatalf("%v", err)
	}
	if _, err := believing(t, g).Verify(input(t, again)); err != nil {
		t.Error(err)
	}
	for name, h := range again.holders() {
		c := (*h).Cert
		if !simhw.Marked(c) || strings.Contains(strings.ToLower(c.Subject.String()), "nvidia") {
			t.Errorf("%s: %s", name, c.Subject)
		}
	}
	items, err := g.Collateral(now)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		if !strings.HasPrefix(it.Origin, nvidia.SimulatedOrigin(g.Root())+"/") {
			t.Errorf("published as %s", it.Origin)
		}
	}
	for _, bad := range [][]byte{nil, []byte(`{}`), bytes.Replace(b, []byte(`"leaf"`), []byte(`"other"`), 1)} {
		if _, err := Load(bad); err == nil {
			t.Errorf("%.20q: loaded", bad)
		}
	}
}
