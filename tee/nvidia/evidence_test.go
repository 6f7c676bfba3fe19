package nvidia

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestCodec(t *testing.T) {
	// As the other implementation's attester writes it.
	const text = `{"device_evidence_list":[{"arch":"HOPPER","uuid":"GPU-1","evidence":"EeA=","certificate":"YQ=="},{"arch":"LS10","uuid":"unknown","evidence":"11e0","certificate":"YQ=="}]}`
	e, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for i := range e.Devices {
		if b, err := e.Devices[i].ReportBytes(); err != nil || !bytes.Equal(b, []byte{0x11, 0xe0}) {
			t.Errorf("device %d: %x, %v", i, b, err)
		}
		if b, err := e.Devices[i].Chain(); err != nil || string(b) != "a" {
			t.Errorf("device %d: %s, %v", i, b, err)
		}
	}
	out, err := json.Marshal(e)
	if err != nil || string(out) != text {
		t.Errorf("%s, %v", out, err)
	}
	// Without a UUID, and with members that the published codec passes over.
	e, err = Parse([]byte(`{"device_evidence_list":[{"arch":"hopper","evidence":"11","certificate":"YQ==","x":1}],"y":{}}`))
	if err != nil || e.Devices[0].UUID != UnknownUUID {
		t.Errorf("%+v, %v", e, err)
	}
	if a, err := ParseArch("bLackwell"); err != nil || a != Blackwell {
		t.Errorf("%s, %v", a, err)
	}
	if _, err := ParseArch("AMPERE"); err == nil {
		t.Error("an unknown architecture")
	}
}

func TestParseRefuses(t *testing.T) {
	dev := `{"arch":"HOPPER","evidence":"11","certificate":"YQ=="}`
	for name, s := range map[string]string{
		"no list": `{}`, "no device": `{"device_evidence_list":[]}`, "null": `{"device_evidence_list":null}`, "null device": `{"device_evidence_list":[null]}`,
		"too many": `{"device_evidence_list":[` + strings.Repeat(dev+",", MaxDevices) + dev + `]}`, "another case": `{"Device_evidence_list":[` + dev + `]}`,
		"arch twice":        `{"device_evidence_list":[{"arch":"HOPPER","arch":"LS10","evidence":"11","certificate":"YQ=="}]}`,
		"long arch":         `{"device_evidence_list":[{"arch":"` + strings.Repeat("H", 300) + `","evidence":"11","certificate":"YQ=="}]}`,
		"note of two lines": `{"device_evidence_list":[` + dev + `],"simulation":"a\nb"}`, "long report": `{"device_evidence_list":[{"arch":"HOPPER","evidence":"` + strings.Repeat("1", 2*MaxReport+4) + `","certificate":"YQ=="}]}`,
	} {
		if _, err := Parse([]byte(s)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, d := range []Device{{Report: ""}, {Report: "1"}, {Report: "YQ"}, {Report: "YQ=\n="}, {Report: "YR=="}} {
		if _, err := d.ReportBytes(); err == nil {
			t.Errorf("%q: accepted", d.Report)
		}
	}
	for _, d := range []Device{{Certificate: ""}, {Certificate: "YQ"}, {Certificate: strings.Repeat("AAAA", MaxChain/3+1)}} {
		if _, err := d.Chain(); err == nil {
			t.Errorf("%.20q: accepted", d.Certificate)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"device_evidence_list":[{"arch":"HOPPER","uuid":"u","evidence":"11","certificate":"YQ=="}],"simulation":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Parse(b)
		if err != nil {
			return
		}
		out, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(out)
		if err != nil || len(again.Devices) != len(e.Devices) || again.Devices[0] != e.Devices[0] {
			t.Errorf("%+v, %v", again, err)
		}
	})
}
