package spdm_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/tee/nvidia/nvidiatest"
	"github.com/cofferproject/coffer/tee/nvidia/spdm"
	"github.com/cofferproject/coffer/test/vectors"
)

func device(t testing.TB) *nvidiatest.Device {
	return nvidiatest.NewVendor(t, "GH100", nil).NewDevice(t, "HOPPER")
}

func recorded(t testing.TB) []byte {
	text, err := os.ReadFile(filepath.Join(vectors.Dir(t, "nvidia"), "hopper_coco_report1.txt"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRecorded(t *testing.T) {
	b := recorded(t)
	r, err := spdm.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Blocks) != 64 || len(r.Signed) != len(b)-spdm.SignatureSize-1 || len(r.Signature) != spdm.SignatureSize {
		t.Errorf("%d blocks, %d bytes signed", len(r.Blocks), len(r.Signed))
	}
	if v, ok := r.Value(64); !ok || len(v) != 48 || !bytes.Equal(v, make([]byte, 48)) {
		t.Errorf("measurement 64: %x", v)
	}
	if _, ok := r.Value(65); ok {
		t.Error("a measurement that is not there")
	}
	if len(r.Opaque.Claims()) != 16 || r.Opaque.Text(spdm.FieldVBIOSVersion) != "96.00.74.00.1a" {
		t.Errorf("%v", r.Opaque.Claims())
	}
}

// Every shortened report is refused, and every lengthened one but for the zero.
func TestCut(t *testing.T) {
	d := device(t)
	b := d.Report(t, make([]byte, 32))
	for n := range b {
		if _, err := spdm.Parse(b[:n]); err == nil {
			t.Errorf("%d of %d bytes: accepted", n, len(b))
		}
	}
	for name, c := range map[string]struct {
		more []byte
		ok   bool
	}{"nothing": {nil, true}, "a zero": {[]byte{0}, true}, "a one": {[]byte{1}, false}, "two zeros": {[]byte{0, 0}, false}} {
		if _, err := spdm.Parse(append(slices.Clone(b), c.more...)); (err == nil) != c.ok {
			t.Errorf("%s after it: %v", name, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	const header = spdm.RequestSize
	for name, change := range map[string]func(d *nvidiatest.Device, b []byte) []byte{
		"request version":   func(_ *nvidiatest.Device, b []byte) []byte { b[0] = 0x12; return b },
		"request code":      func(_ *nvidiatest.Device, b []byte) []byte { b[1] = 0x81; return b },
		"no signature":      func(_ *nvidiatest.Device, b []byte) []byte { b[2] = 0; return b },
		"one measurement":   func(_ *nvidiatest.Device, b []byte) []byte { b[3] = 1; return b },
		"slot 8":            func(_ *nvidiatest.Device, b []byte) []byte { b[36] = 8; b[header+3] = 8; return b },
		"another slot":      func(_ *nvidiatest.Device, b []byte) []byte { b[header+3] = 1; return b },
		"response version":  func(_ *nvidiatest.Device, b []byte) []byte { b[header] = 0x10; return b },
		"an error response": func(_ *nvidiatest.Device, b []byte) []byte { b[header+1] = 0x7f; return b },
		"parameter 1":       func(_ *nvidiatest.Device, b []byte) []byte { b[header+2] = 1; return b },
		"no block":          func(_ *nvidiatest.Device, b []byte) []byte { b[header+4] = 0; return b },
		"a block too few":   func(_ *nvidiatest.Device, b []byte) []byte { b[header+4]--; return b },
		"a block too many":  func(_ *nvidiatest.Device, b []byte) []byte { b[header+4]++; return b },
		"record too long":   func(_ *nvidiatest.Device, b []byte) []byte { b[header+7] = 0xff; return b },
		"index 0":           func(_ *nvidiatest.Device, b []byte) []byte { b[header+8] = 0; return b },
		"index twice":       func(_ *nvidiatest.Device, b []byte) []byte { b[header+8] = 2; return b },
		"specification":     func(_ *nvidiatest.Device, b []byte) []byte { b[header+9] = 2; return b },
		"size of the value": func(_ *nvidiatest.Device, b []byte) []byte { b[header+13]--; return b },
		"unknown field": func(d *nvidiatest.Device, _ []byte) []byte {
			d.Opaque = append(d.Opaque, nvidiatest.Field{Type: 37})
			return nil
		},
		"field twice": func(d *nvidiatest.Device, _ []byte) []byte {
			d.Opaque = append(d.Opaque, nvidiatest.Field{Type: 36, Value: []byte{0}})
			return nil
		},
		"decoder half on": func(d *nvidiatest.Device, _ []byte) []byte { d.Opaque[5].Value = []byte{0}; return nil },
		"driver no text":  func(d *nvidiatest.Device, _ []byte) []byte { d.Opaque[4].Value = []byte{0xff}; return nil },
		"empty VBIOS":     func(d *nvidiatest.Device, _ []byte) []byte { d.Opaque[0].Value = nil; return nil },
		"half an identifier": func(d *nvidiatest.Device, _ []byte) []byte {
			d.Opaque = append(d.Opaque, nvidiatest.Field{Type: 22, Value: make([]byte, 12)})
			return nil
		},
		"long number": func(d *nvidiatest.Device, _ []byte) []byte { d.Opaque[8].Value = make([]byte, 9); return nil },
		"odd counts": func(d *nvidiatest.Device, _ []byte) []byte {
			d.Opaque = append(d.Opaque, nvidiatest.Field{Type: 12, Value: make([]byte, 5)})
			return nil
		},
	} {
		d := device(t)
		b := d.Report(t, make([]byte, 32))
		if b = change(d, b); b == nil {
			b = d.Report(t, make([]byte, 32))
		}
		if _, err := spdm.Parse(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	d := device(f)
	f.Add(d.Report(f, make([]byte, 32)))
	d.Opaque = append(d.Opaque, nvidiatest.Field{Type: 12, Value: make([]byte, 8)}, nvidiatest.Field{Type: 22, Value: make([]byte, 16)}, nvidiatest.Field{Type: 35, Value: []byte("GB202")})
	f.Add(d.Report(f, make([]byte, 32)))
	if _, err := os.Stat("../../../../shared/vectors/nvidia"); err == nil {
		f.Add(recorded(f))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := spdm.Parse(b)
		if err != nil {
			return
		}
		if n := len(b) - len(r.Signed) - len(r.Signature); n < 0 || n > 1 {
			t.Errorf("%d bytes are not accounted for", n)
		}
		for name, v := range r.Opaque.Claims() {
			if v == nil {
				t.Errorf("%s is nil", name)
			}
		}
	})
}
