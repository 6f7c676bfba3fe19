package ear

import (
	"encoding/json"
	"reflect"
	"testing"
)

// What is signed is what encoding/json makes of the claims, with and without
// extensions and with every member set.
func TestEncodeIsJSON(t *testing.T) {
	full := Submod{
		Status: Affirming, Vector: Vector{Hardware: 2, Executables: 3}, PolicyID: "<&>", Evidence: map[string]any{"snp": map[string]any{"b": 1, "a": "\u2028"}, "x": nil},
		Coffer: &Additions{TEE: "snp", Unproven: []string{"u"}, Unbound: []string{"v"}, Initdata: &Digest{"sha256", "00"}, Policy: "p", Namespace: "n"},
	}
	extended := full
	extended.Extensions = map[string]any{"ear.trustee.identifiers": []any{"a"}}
	for name, submods := range map[string]map[string]Submod{
		"plain": {"cpu0": full, "gpu0": {}}, "extended": {"cpu0": full, "gpu0": extended},
	} {
		c := Claims{Submods: submods}
		// Every member that there is or will be: one that encode forgets shows here.
		v := reflect.ValueOf(&c).Elem()
		for i := range v.NumField() {
			switch f := v.Field(i); f.Kind() {
			case reflect.String:
				f.SetString("text of " + v.Type().Field(i).Name)
			case reflect.Int64:
				f.SetInt(int64(i + 1))
			case reflect.Struct:
				f.Field(0).SetString("developer")
			case reflect.Map:
			default:
				t.Fatalf("%s is of a kind that this test does not fill", v.Type().Field(i).Name)
			}
		}
		want, err := json.Marshal(&c)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.encode()
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: %s, %v; encoding/json: %s", name, got, err, want)
		}
	}
}
