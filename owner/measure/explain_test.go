package measure

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/tee/tdx/tdxtest"
)

// claimsOf gives the claims that a verifier would have verified of a launch.
func claimsOf(t *testing.T, spec *launch.Spec) map[string]any {
	t.Helper()
	r, err := Launch(spec)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	for _, f := range fields[spec.TEE.Wire()] {
		l, _ := r.Values[f.reference].([]any)
		if len(l) != 1 {
			t.Fatalf("%s has the values %v", f.reference, l)
		}
		m, path := out, strings.Split(f.claim, ".")
		for _, p := range path[:len(path)-1] {
			next, ok := m[p].(map[string]any)
			if !ok {
				next = map[string]any{}
				m[p] = next
			}
			m = next
		}
		m[path[len(path)-1]] = l[0]
	}
	return out
}

// referenceOf gives reference values as they come back from the trustee.
func referenceOf(t *testing.T, name string, spec *launch.Spec) Reference {
	t.Helper()
	r, err := Launch(spec)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(r.Values)
	if err != nil {
		t.Fatal(err)
	}
	out := Reference{Bundle: name, Launch: r.Launch}
	if err := json.Unmarshal(b, &out.Values); err != nil {
		t.Fatal(err)
	}
	return out
}

type change struct {
	input    Input
	apply    func(*launch.Spec)
	expected string
	launched string
	changes  []string
}

func baseOf(t *testing.T, tee, fw string) *launch.Spec {
	s := &launch.Spec{
		TEE: launch.TEE(tee), Kernel: launch.File{Path: file(t, "kernel", tdxtest.Kernel("kernel", 0))}, Initrd: launch.File{Path: file(t, "initrd", []byte("initrd"))},
		Cmdline: "console=ttyS0 quiet", VCPUs: 2, MemoryMiB: 512, Initdata: []byte("document"), CPUModel: launch.TEE(tee).DefaultCPUModel(),
	}
	if fw != "" {
		s.TEEFirmware.Path = unpacked(t, fw)
	}
	return s
}

func sum(t *testing.T, path string) string {
	t.Helper()
	in, err := read(&launch.Spec{Kernel: launch.File{Path: path}})
	if err != nil {
		t.Fatal(err)
	}
	return "SHA-256 " + in.digests["kernel"]
}

// TestEveryChangedInputIsNamed changes one input of a launch at a time, behind
// the back of who asked for it: the explanation names that input, both values and
// the registers, and nothing else.
func TestEveryChangedInputIsNamed(t *testing.T) {
	for _, c := range []struct {
		tee, firmware string
		fields        map[Input][]string
	}{
		{"snp-sim", "OVMF.amdsev.fd", map[Input][]string{
			Kernel: {"snp.measurement"}, Initrd: {"snp.measurement"}, Cmdline: {"snp.measurement"}, VCPUs: {"snp.measurement"}, CPUModel: {"snp.measurement"},
		}},
		{"tdx-sim", "OVMF.inteltdx.ms.fd", map[Input][]string{
			Kernel: {"tdx.quote.body.rtmr_1"}, Initrd: {"tdx.quote.body.rtmr_2"}, Cmdline: {"tdx.quote.body.rtmr_2"}, VCPUs: {"tdx.quote.body.rtmr_0"}, Memory: {"tdx.quote.body.rtmr_0"},
		}},
		{"cca-sim", "", map[Input][]string{
			Kernel: {"cca.realm.cca-realm-initial-measurement"}, Initrd: {"cca.realm.cca-realm-initial-measurement"}, Cmdline: {"cca.realm.cca-realm-initial-measurement"},
			VCPUs: {"cca.realm.cca-realm-initial-measurement"}, Memory: {"cca.realm.cca-realm-initial-measurement"},
		}},
		{"azure-snp-sim", "OVMF.amdsev.fd", map[Input][]string{
			Kernel: {"az-snp-vtpm.tpm.pcr11"}, Initrd: {"az-snp-vtpm.tpm.pcr11"}, Cmdline: {"az-snp-vtpm.tpm.pcr11"}, CPUModel: {"az-snp-vtpm.measurement"},
		}},
		{"nitro-sim", "", map[Input][]string{
			Kernel: {"nitro.pcrs.pcr0", "nitro.pcrs.pcr1"}, Initrd: {"nitro.pcrs.pcr0", "nitro.pcrs.pcr1"}, Cmdline: {"nitro.pcrs.pcr0", "nitro.pcrs.pcr1"},
		}},
	} {
		t.Run(c.tee, func(t *testing.T) {
			base := baseOf(t, c.tee, c.firmware)
			kernel, initrd := file(t, "kernel", tdxtest.Kernel("another", 0)), file(t, "initrd", []byte("another"))
			for _, ch := range []change{
				{Kernel, func(s *launch.Spec) { s.Kernel.Path = kernel }, sum(t, base.Kernel.Path), sum(t, kernel), nil},
				{Initrd, func(s *launch.Spec) { s.Initrd.Path = initrd }, sum(t, base.Initrd.Path), sum(t, initrd), nil},
				{Cmdline, func(s *launch.Spec) { s.Cmdline += " evil=1" }, base.Cmdline, base.Cmdline + " evil=1", []string{"evil=1 was added"}},
				{VCPUs, func(s *launch.Spec) { s.VCPUs++ }, "2", "3", nil},
				{Memory, func(s *launch.Spec) { s.MemoryMiB = 1024 }, "512 MiB", "1024 MiB", nil},
				{CPUModel, func(s *launch.Spec) { s.CPUModel = "EPYC-Milan" }, "EPYC-v4", "EPYC-Milan", nil},
			} {
				want, measured := c.fields[ch.input]
				evil := *base
				ch.apply(&evil)
				e := Explain(t.Context(), &Question{
					TEE: base.TEE.Wire(), Claims: claimsOf(t, &evil), References: []Reference{referenceOf(t, "values", base)},
					Candidates: []Candidate{{Spec: base, Source: "asked for"}, {Spec: &evil, Source: "the launcher's word"}},
				})
				if !measured {
					if e != nil {
						t.Errorf("%s is in no register, and yet: %+v", ch.input, e)
					}
					continue
				}
				if e == nil || len(e.Differences) != 1 || len(e.Unexplained) > 0 || e.Against == nil || !e.Against.Verified {
					t.Errorf("%s: %+v", ch.input, e)
					continue
				}
				d := e.Differences[0]
				if d.Input != ch.input || d.Expected != ch.expected || d.Launched != ch.launched || !slices.Equal(d.Fields, want) || !slices.Equal(d.Changes, ch.changes) {
					t.Errorf("%s: %+v, want in %v", ch.input, d, want)
				}
				if e.Proof[0].Source != "the launcher's word" || *e.Proof[0].Launch == *e.Against.Launch {
					t.Errorf("%s: %+v", ch.input, e.Proof)
				}
				words := fmt.Sprint(e.Facts())
				for _, s := range append([]string{string(ch.input) + ": ", ch.expected, ch.launched, "the launcher's word", "values"}, want...) {
					if !strings.Contains(words, s) {
						t.Errorf("%s: %q is not in %s", ch.input, s, words)
					}
				}
			}
		})
	}
}

// TestALyingLauncherExplainsNothing: the launcher's word counts only if the
// measurement bears it out.
func TestALyingLauncherExplainsNothing(t *testing.T) {
	base := baseOf(t, "cca-sim", "")
	evil, lie := *base, *base
	evil.Cmdline += " evil=1"
	lie.Cmdline += " harmless=1"
	q := &Question{
		TEE: "cca", Claims: claimsOf(t, &evil), References: []Reference{referenceOf(t, "values", base)},
		Candidates: []Candidate{{Spec: base, Source: "asked for"}, {Spec: &lie, Source: "the launcher's word"}},
	}
	e := Explain(t.Context(), q)
	if e == nil || len(e.Differences) > 0 || len(e.Proof) > 0 || len(e.Unexplained) != 1 || e.Unexplained[0].Field != "cca.realm.cca-realm-initial-measurement" || e.Tried < 64 {
		t.Fatalf("%+v", e)
	}
	if words := fmt.Sprint(e.Facts()); !strings.Contains(words, "no input that coffer knows of explains it (") || strings.Contains(words, "harmless") {
		t.Error(words)
	}
	// Of a TD the other registers are explained all the same.
	base = baseOf(t, "tdx-sim", "OVMF.inteltdx.ms.fd")
	evil = *base
	evil.Cmdline += " evil=1"
	evil.VCPUs = 7
	e = Explain(t.Context(), &Question{
		TEE: "tdx", Claims: claimsOf(t, &evil), References: []Reference{referenceOf(t, "values", base)}, Candidates: []Candidate{{Spec: base, Source: "asked for"}},
	})
	if e == nil || len(e.Differences) != 1 || e.Differences[0].Input != VCPUs || len(e.Unexplained) != 1 || e.Unexplained[0].Field != "tdx.quote.body.rtmr_2" {
		t.Fatalf("%+v", e)
	}
}

// TestFoundByTrying: nobody says what was launched, and there are few enough
// possibilities.
func TestFoundByTrying(t *testing.T) {
	base := baseOf(t, "snp-sim", "OVMF.amdsev.fd")
	initrd := file(t, "initrd", []byte("debug"))
	p := &platform.Platform{Images: map[string]platform.Image{
		"sim-debug": {Kernel: base.Kernel.Path, Initrd: initrd, Cmdline: "console=ttyS0 debug"},
	}}
	for what, apply := range map[Input]func(*launch.Spec){
		VCPUs:    func(s *launch.Spec) { s.VCPUs = 5 },
		CPUModel: func(s *launch.Spec) { s.CPUModel = "EPYC-Genoa" },
		Initrd:   func(s *launch.Spec) { s.Initrd.Path, s.Cmdline = initrd, "console=ttyS0 debug" },
	} {
		evil := *base
		apply(&evil)
		e := Explain(t.Context(), &Question{
			TEE: "snp", Claims: claimsOf(t, &evil), References: []Reference{referenceOf(t, "values", base)},
			Candidates: []Candidate{{Spec: base, Source: "asked for"}}, Platform: p,
		})
		if e == nil || len(e.Differences) == 0 || e.Differences[0].Input != what || !strings.HasPrefix(e.Proof[0].Source, "found by trying") {
			t.Errorf("%s: %+v", what, e)
			continue
		}
		if what == Initrd && (len(e.Differences) != 2 || !slices.Equal(e.Differences[1].Changes, []string{"quiet was removed", "debug was added"})) {
			t.Errorf("%+v", e.Differences)
		}
	}
}

// TestReferencesThatLie: a bundle whose values do not follow from the launch that
// it names explains nothing.
func TestReferencesThatLie(t *testing.T) {
	base := baseOf(t, "snp-sim", "OVMF.amdsev.fd")
	evil := *base
	evil.VCPUs = 3
	honest, lying := referenceOf(t, "honest", base), referenceOf(t, "lying", base)
	other := *lying.Launch
	other.MemoryMiB, other.VCPUs = 1024, 4
	lying.Launch = &other
	q := &Question{
		TEE: "snp", Claims: claimsOf(t, &evil), References: []Reference{lying, honest},
		Candidates: []Candidate{{Spec: base, Source: "asked for"}, {Spec: &evil, Source: "the launcher's word"}},
	}
	e := Explain(t.Context(), q)
	if e == nil || e.Against == nil || e.Against.Bundle != "honest" || len(e.Differences) != 1 || !strings.Contains(fmt.Sprint(e.Notes), "lying do not follow") {
		t.Fatalf("%+v", e)
	}
	// Where its files are not at hand, nobody can tell; but it must not claim to be
	// what was measured.
	gone := *honest.Launch
	gone.Kernel, gone.VCPUs = strings.Repeat("0", 64), 3
	q.References = []Reference{{Bundle: "gone", Launch: &gone, Values: honest.Values}}
	if e = Explain(t.Context(), q); e == nil || e.Against == nil || e.Against.Verified || e.Differences[0].Input != Kernel || !strings.Contains(fmt.Sprint(e.Facts()), "not at hand") {
		t.Fatalf("%+v", e)
	}
	same := *referenceOf(t, "", &evil).Launch
	q.References = []Reference{{Bundle: "same", Launch: &same, Values: honest.Values}}
	if e = Explain(t.Context(), q); e == nil || e.Against != nil || len(e.Differences) > 0 {
		t.Fatalf("%+v", e)
	}
}

// Several reference values count together, as policies take them: what is refused is
// held against the nearest.
func TestSeveralReferences(t *testing.T) {
	base := baseOf(t, "tdx-sim", "OVMF.inteltdx.ms.fd")
	larger, evil := *base, *base
	larger.VCPUs, larger.MemoryMiB = 4, 2048
	refs := []Reference{referenceOf(t, "larger", &larger), referenceOf(t, "base", base), {Bundle: "by hand", Values: map[string]any{"rtmr_1": "00"}}}
	q := &Question{TEE: "tdx", Claims: claimsOf(t, base), References: refs, Candidates: []Candidate{{Spec: base, Source: "asked for"}, {Spec: &evil, Source: "the launcher's word"}}}
	if e := Explain(t.Context(), q); e != nil {
		t.Errorf("accepted by one of them: %+v", e)
	}
	evil.Cmdline += " evil=1"
	q.Claims = claimsOf(t, &evil)
	e := Explain(t.Context(), q)
	if e == nil || e.Against == nil || e.Against.Bundle != "base" || len(e.Differences) != 1 || e.Differences[0].Input != Cmdline || len(e.Proof) != 1 {
		t.Errorf("%+v", e)
	}
}

// Values that somebody registered by hand name no launch to compare with.
func TestReferencesWithoutALaunch(t *testing.T) {
	base := baseOf(t, "tdx-sim", "OVMF.inteltdx.ms.fd")
	partly := referenceOf(t, "partly", base)
	delete(partly.Values, "rtmr_2")
	e := Explain(t.Context(), &Question{
		TEE: "tdx", Claims: claimsOf(t, base), Candidates: []Candidate{{Spec: base, Source: "asked for"}},
		References: []Reference{partly, {Bundle: "by hand", Values: map[string]any{"rtmr_2": []any{"00"}}}},
	})
	if e == nil || e.Against != nil || len(e.Proof) != 1 || e.Proof[0].Field != "tdx.quote.body.rtmr_2" || !strings.Contains(fmt.Sprint(e.Notes), "no reference values that count say") {
		t.Errorf("%+v", e)
	}
}

func TestNothingToExplain(t *testing.T) {
	base := baseOf(t, "snp-sim", "OVMF.amdsev.fd")
	q := &Question{TEE: "snp", Claims: claimsOf(t, base), References: []Reference{referenceOf(t, "values", base)}}
	if e := Explain(t.Context(), q); e != nil {
		t.Errorf("an expected launch: %+v", e)
	}
	q.Claims = map[string]any{"measurement": 7}
	q.References = nil
	if e := Explain(t.Context(), q); e != nil {
		t.Errorf("no measurement: %+v", e)
	}
	// Nothing registered at all: then what was measured is said.
	q.Claims, q.Candidates = claimsOf(t, base), []Candidate{{Spec: base, Source: "asked for"}}
	e := Explain(t.Context(), q)
	if e == nil || e.Against != nil || len(e.Proof) != 1 || !strings.Contains(fmt.Sprint(e.Facts()), "vCPU count 2") {
		t.Errorf("%+v", e)
	}
	if e := Explain(t.Context(), &Question{TEE: "tpm", Claims: q.Claims}); e != nil {
		t.Errorf("a TEE without such registers: %+v", e)
	}
	// What cannot be read is said, and ends no search.
	gone := *base
	gone.Kernel.Path = filepath.Join(t.TempDir(), "gone")
	q.Candidates = []Candidate{{Spec: &gone, Source: "the launcher's word"}}
	if e := Explain(t.Context(), q); e == nil || len(e.Unexplained) != 1 || !strings.Contains(fmt.Sprint(e.Facts()), "nothing could be computed") || !strings.Contains(fmt.Sprint(e.Notes), "cannot be computed") {
		t.Errorf("%+v", e)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if e := Explain(ctx, q); e == nil || len(e.Unexplained) != 1 || !strings.Contains(fmt.Sprint(e.Notes), "cut short") {
		t.Errorf("%+v", e)
	}
}

// Several models share one signature, which is all that is measured of them.
func TestModelsOfOneSignatureAreNoDifference(t *testing.T) {
	base := baseOf(t, "snp-sim", "OVMF.amdsev.fd")
	evil := *base
	evil.CPUModel, evil.VCPUs = "EPYC-v3", 3
	e := Explain(t.Context(), &Question{
		TEE: "snp", Claims: claimsOf(t, &evil), References: []Reference{referenceOf(t, "values", base)}, Candidates: []Candidate{{Spec: &evil, Source: "asked for"}},
	})
	if e == nil || len(e.Differences) != 1 || e.Differences[0].Input != VCPUs {
		t.Errorf("%+v", e)
	}
}

func TestArgumentChanges(t *testing.T) {
	for _, c := range []struct {
		before, after string
		want          []string
	}{
		{"a b", "a b", nil},
		{"a b", "a  b", nil},
		{"a b", "a b evil=1", []string{"evil=1 was added"}},
		{"a b c", "a c", []string{"b was removed"}},
		{"panic=-1 quiet", "panic=0 quiet", []string{"panic=-1 became panic=0"}},
		{"a b c", "c a b", []string{"c has moved"}},
		{"a a", "a", []string{"a was removed"}},
		{"", "x", []string{"x was added"}},
		{"x=1 y", "x=1 x=2 y", []string{"x=2 was added"}},
		{strings.Repeat("a ", 600), "b", nil},
	} {
		if got := argumentChanges(c.before, c.after); !slices.Equal(got, c.want) {
			t.Errorf("%q to %q: %q, want %q", c.before, c.after, got, c.want)
		}
	}
}

// TestLaunchesSurviveTheirFiles: what a bundle says of a launch is by content.
func TestLaunchIsByContent(t *testing.T) {
	base := baseOf(t, "snp-sim", "OVMF.amdsev.fd")
	r, err := Launch(base)
	if err != nil {
		t.Fatal(err)
	}
	moved := *base
	b, err := os.ReadFile(base.Kernel.Path)
	if err != nil {
		t.Fatal(err)
	}
	moved.Kernel.Path, moved.CPUModel = file(t, "elsewhere", b), ""
	moved.SNP = &launch.SNPParams{VMM: "qemu", Features: launch.SNPActive, Policy: 7}
	m, err := Launch(&moved)
	if err != nil || *m.Launch != *r.Launch || !maps.Equal(m.Files, r.Files) {
		t.Errorf("%+v, %+v, %v", m.Launch, r.Launch, err)
	}
	moved.SNP.Features = 3
	if m, err = Launch(&moved); err != nil || m.Launch.SEVFeatures != 3 {
		t.Errorf("%+v, %v", m, err)
	}
	if err := m.Launch.Validate(); err != nil {
		t.Error(err)
	}
}
