package nvidiadpu

import (
	"encoding/json"
	"strings"
	"testing"
)

const good = `{"version":1,"devices":[{"architecture":"bluefield3","alias_cert":"YQ==","device_id_cert":"Yg==","report_data_signature":"Yw=="}]}`

func TestCodec(t *testing.T) {
	e, err := Parse([]byte(good))
	if err != nil || string(e.Devices[0].Alias) != "a" || string(e.Devices[0].DeviceID) != "b" || string(e.Devices[0].Signature) != "c" {
		t.Fatalf("%+v, %v", e, err)
	}
	if b, err := json.Marshal(e); err != nil || string(b) != good {
		t.Errorf("%s, %v", b, err)
	}
	if _, err := Parse([]byte(strings.Replace(good, `"version"`, `"x":1,"version"`, 1))); err != nil {
		t.Errorf("a member that the published codec passes over: %v", err)
	}
	device := good[strings.Index(good, `{"arch`) : len(good)-2]
	for name, s := range map[string]string{
		"version 2": strings.Replace(good, ":1,", ":2,", 1), "no version": strings.Replace(good, `"version":1,`, "", 1), "no device": `{"version":1,"devices":[]}`,
		"two devices": strings.Replace(good, device, device+","+device, 1), "unsigned": strings.Replace(good, "Yw==", "", 1), "not base64": strings.Replace(good, "YQ==", "YQ", 1),
		"twice": strings.Replace(good, `"version":1`, `"version":1,"version":1`, 1), "another case": strings.Replace(good, "alias_cert", "Alias_cert", 1),
		"long signature": strings.Replace(good, "Yw==", strings.Repeat("AAAA", 60), 1), "long architecture": strings.Replace(good, "bluefield3", strings.Repeat("b", 300), 1),
	} {
		if s == good {
			t.Fatalf("%s: nothing changed", name)
		}
		if _, err := Parse([]byte(s)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Parse(b)
		if err != nil {
			return
		}
		out, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(out); err != nil {
			t.Errorf("%s: %v", out, err)
		}
	})
}
