package refvalue

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
)

func bundle() *Bundle {
	return &Bundle{
		Version:    Version,
		Provenance: Provenance{Tool: "test", Packages: []Package{{"suite", "name", "1", "00"}}},
		Sets: []Set{
			{TEE: "tpm-sim", Image: "release", MemoryMiB: 256, Source: "test", Events: []Event{
				{PCR: 0, Type: SCRTMVersion, Digest: Digest{1}, What: "version"},
				{PCR: 0, Type: EFIPlatformFirmwareBlob, Digest: Digest{2}, What: `a "quoted" {"pcr":1}`, VCPUs: 1},
				{PCR: 0, Type: EFIPlatformFirmwareBlob, Digest: Digest{3}, What: "two", VCPUs: 2},
				{PCR: 4, Type: EventType(0x12345678), Digest: Digest{4}, What: "unknown type"},
			}},
			{TEE: "tpm-sim", Image: "debug", MemoryMiB: 256, Events: []Event{{PCR: 0, Type: Separator}}},
		},
	}
}

func TestEncodeParse(t *testing.T) {
	want := bundle()
	raw, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	valid := func(change func(*Bundle)) string {
		b := bundle()
		change(b)
		raw, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	if _, err := Parse([]byte(valid(func(*Bundle) {}))); err != nil {
		t.Fatalf("the unchanged document: %v", err)
	}
	for name, doc := range map[string]string{
		"empty":          "",
		"unknown field":  `{"version":1,"surprise":1}`,
		"second value":   valid(func(*Bundle) {}) + "{}",
		"version":        valid(func(b *Bundle) { b.Version = 2 }),
		"no events":      valid(func(b *Bundle) { b.Sets[0].Events = nil }),
		"no tee":         valid(func(b *Bundle) { b.Sets[0].TEE = "" }),
		"no image":       valid(func(b *Bundle) { b.Sets[0].Image = "" }),
		"pcr 24":         valid(func(b *Bundle) { b.Sets[0].Events[0].PCR = 24 }),
		"pcr 8":          valid(func(b *Bundle) { b.Sets[0].Events[0].PCR = 8 }),
		"negative vcpus": valid(func(b *Bundle) { b.Sets[0].Events[0].VCPUs = -1 }),
		"second set":     valid(func(b *Bundle) { b.Sets[1].Image = "release" }),
		"short digest":   strings.Replace(valid(func(*Bundle) {}), Digest{1}.String(), "01", 1),
		"upper digest":   strings.Replace(valid(func(*Bundle) {}), Digest{1}.String(), strings.Repeat("AB", 32), 1),
		"unknown type":   strings.Replace(valid(func(*Bundle) {}), "EV_S_CRTM_VERSION", "EV_NEW", 1),
		"bad launch":     valid(func(b *Bundle) { b.Provenance.Launch = &launch.Inputs{TEE: "snp", VCPUs: 0, MemoryMiB: 256} }),
		"too many":       valid(func(b *Bundle) { b.Sets[0].Events = make([]Event, MaxEventsPerSet+1) }),
	} {
		if _, err := Parse([]byte(doc)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := Parse(make([]byte, MaxSize+1)); err == nil {
		t.Error("too large: accepted")
	}
}

func TestAlternatives(t *testing.T) {
	s := &bundle().Sets[0]
	if got := fmt.Sprint(s.VCPUCounts()); got != "[1 2]" {
		t.Errorf("counts are %s", got)
	}
	ev := s.For(2)
	if len(ev) != 3 || ev[1].Digest != (Digest{3}) {
		t.Errorf("events for two vCPUs: %+v", ev)
	}
	h := sha256.Sum256(append(make([]byte, 32), Digest{1}.bytes()...))
	want := Digest(sha256.Sum256(append(h[:], Digest{3}.bytes()...)))
	if got := Replay(ev, 0); got != want {
		t.Errorf("PCR 0 replays to %s, want %s", got, want)
	}
}

func (d Digest) bytes() []byte { return d[:] }

func TestSelect(t *testing.T) {
	b := bundle().Select("release")
	if len(b.Sets) != 1 || b.Sets[0].Image != "release" {
		t.Errorf("selected %+v", b.Sets)
	}
	if _, ok := b.Find("tpm-sim", "debug", 256); ok {
		t.Error("the debug set is still there")
	}
	if _, ok := b.Find("tpm-sim", "release", 256); !ok {
		t.Error("the release set is gone")
	}
}

func FuzzParse(f *testing.F) {
	raw, err := bundle().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"version":1,"sets":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Parse(b)
		if err != nil {
			return
		}
		raw, err := v.Encode()
		if err != nil {
			t.Fatalf("accepted but not encodable: %v", err)
		}
		if _, err := Parse(raw); err != nil {
			t.Fatalf("own encoding refused: %v", err)
		}
	})
}
