package ear

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
)

// byReflection encodes claims with encoding/json alone, extensions last.
func byReflection(t *testing.T, c *Claims) string {
	t.Helper()
	marshal := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	submods := map[string]json.RawMessage{}
	for name, s := range c.Submods {
		b := marshal(plainSubmod(s))
		if len(s.Extensions) > 0 {
			b = append(append(b[:len(b)-1], ','), marshal(s.Extensions)[1:]...)
		}
		submods[name] = b
	}
	head := *c
	head.Submods = nil
	before, after, ok := bytes.Cut(marshal(head), []byte(`null,`))
	if !ok {
		t.Fatal("no place for submodules")
	}
	return string(before) + string(marshal(submods)) + "," + string(after)
}

// What is signed is what encoding/json makes of the claims, with and without
// extensions and with every member set.
func TestEncodeIsJSON(t *testing.T) {
	full := Submod{
		Status: Affirming, Vector: Vector{1, 2, 3, 4, -5, 6, 7, 127}, PolicyID: "<&>",
		Evidence: map[string]any{"snp": map[string]any{"b": 1, "a": "\u2028", "é\n\"\\": uint64(1 << 63)}, "x": nil, "f": 1e21, "l": []any{true, "x", []string{"y"}}, "e": map[string]any{}},
		Coffer:   &Additions{TEE: "snp", Unproven: []string{"u"}, Unbound: []string{"v"}, Initdata: &Digest{"sha256", "00"}, Policy: "p", Namespace: "n"},
	}
	// Every member that there is or will be: one that append forgets shows here.
	for i := range reflect.ValueOf(full).NumField() {
		if f := reflect.TypeOf(full).Field(i); f.Name != "Extensions" && reflect.ValueOf(full).Field(i).IsZero() {
			t.Fatalf("%s is not set", f.Name)
		}
	}
	extended := full
	extended.Extensions = map[string]any{"ear.trustee.identifiers": []any{"a"}, "an<other": map[string]any{"n": 1.5}}
	for name, submods := range map[string]map[string]Submod{
		"plain": {"cpu0": full, "gpu0": {}}, "extended": {"cpu0": full, "gpu0": extended}, "names": {`"submods":null`: full}, "none": {},
	} {
		c := Claims{Submods: submods}
		v := reflect.ValueOf(&c).Elem()
		for i := range v.NumField() {
			switch f := v.Field(i); f.Kind() {
			case reflect.String:
				f.SetString(`"submods":null of ` + v.Type().Field(i).Name)
			case reflect.Int64:
				f.SetInt(int64(i + 1))
			case reflect.Struct:
				f.Field(0).SetString("developer")
			case reflect.Map:
			default:
				t.Fatalf("%s is of a kind that this test does not fill", v.Type().Field(i).Name)
			}
		}
		want := byReflection(t, &c)
		if got, err := c.encode(); err != nil || string(got) != want {
			t.Errorf("%s: %s, %v; encoding/json: %s", name, got, err, want)
		}
		if got, err := json.Marshal(&c); err != nil || string(got) != want {
			t.Errorf("%s: MarshalJSON: %s, %v; encoding/json: %s", name, got, err, want)
		}
	}
}

// A value that JSON has no form for is an error, wherever it is.
func TestEncodeRefuses(t *testing.T) {
	for name, v := range map[string]any{"channel": make(chan int), "member": map[string]any{"a": func() {}}, "item": []any{1, make(chan int)}} {
		c := Claims{Submods: map[string]Submod{"cpu0": {Evidence: map[string]any{"x": v}}}}
		if b, err := c.encode(); err == nil {
			t.Errorf("%s: %s", name, b)
		}
	}
	for _, name := range []string{"ear.coffer", "Ear.Status"} {
		c := Claims{Submods: map[string]Submod{"cpu0": {Extensions: map[string]any{name: 1}}}}
		if b, err := c.encode(); err == nil {
			t.Errorf("extension %s: %s", name, b)
		}
	}
}

// FuzzEncodeEvidence compares with encoding/json on whatever JSON can say.
func FuzzEncodeEvidence(f *testing.F) {
	for _, s := range []string{
		`{"snp":{"measurement":"00ff","reported_tcb_snp":23,"policy_debug_allowed":false},"report_data":"aa","init_data_claims":null}`,
		`{"a":"<&>\u2028\u0000\"\\é","":[1,-0,1.5e300,"x",[],{}]}`, "{\"a\":\"\xff\xfe\"}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var m map[string]any
		if json.Unmarshal(raw, &m) != nil {
			return
		}
		want, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := EncodeEvidence(m); err != nil || string(got.raw) != string(want) {
			t.Errorf("%s, %v; encoding/json: %s", got, err, want)
		}
	})
}

func TestEncodeEvidenceOfGoTypes(t *testing.T) {
	m := map[string]any{
		"bool": true, "int": -1, "int8": int8(-8), "int16": int16(3), "int64": int64(-1 << 63), "uint": uint(7), "uint8": uint8(255), "uint16": uint16(65535), "uint32": uint32(1 << 31),
		"uint64": ^uint64(0), "float32": float32(0.1), "float64": 0.1, "nil map": map[string]any(nil), "nil list": []any(nil), "bytes": []byte{1, 2}, "strings": []string{"<"},
		"struct": struct{ A int }{1}, "raw": json.RawMessage(`{ "a" : 1 }`), "number": json.Number("12"), "maps": []map[string]any{{"a": 1}}, "del": "\x7f", "invalid": "a\xffb",
	}
	want, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := EncodeEvidence(m); err != nil || string(got.raw) != string(want) {
		t.Errorf("%s, %v; encoding/json: %s", got, err, want)
	}
}

// What was encoded goes into more JSON as it is, by either encoder.
func TestEncodedStays(t *testing.T) {
	e, err := EncodeEvidence(map[string]any{"a": []any{1, "<"}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"e":{"a":[1,"\u003c"]},"z":null}`
	m := map[string]any{"e": e, "z": Encoded{}}
	ours, err := EncodeEvidence(m)
	theirs, err2 := json.Marshal(m)
	if err != nil || err2 != nil || string(ours.raw) != want || string(theirs) != want {
		t.Errorf("%s, %v; %s, %v; want %s", ours.raw, err, theirs, err2, want)
	}
}
