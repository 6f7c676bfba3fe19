package cbor

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

// From RFC 8949, appendix A.
func TestPublishedExamples(t *testing.T) {
	for text, want := range map[string]any{
		"00": uint64(0), "17": uint64(23), "1818": uint64(24), "1903e8": uint64(1000), "1a000f4240": uint64(1000000), "1b000000e8d4a51000": uint64(1000000000000),
		"1bffffffffffffffff": uint64(18446744073709551615), "20": int64(-1), "3863": int64(-100), "3903e7": int64(-1000), "f4": false, "f5": true, "f6": nil,
		"40": []byte{}, "4401020304": []byte{1, 2, 3, 4}, "60": "", "6449455446": "IETF", "62c3bc": "ü", "80": []any{}, "83010203": []any{uint64(1), uint64(2), uint64(3)},
		"a0": Map{}, "a201020304": Map{{uint64(1), uint64(2)}, {uint64(3), uint64(4)}}, "a26161016162820203": Map{{"a", uint64(1)}, {"b", []any{uint64(2), uint64(3)}}},
		"c11a514b67b0": Tag{1, uint64(1363896240)},
	} {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		v, err := Decode(b)
		if err != nil || !reflect.DeepEqual(v, want) {
			t.Errorf("%s: %#v, %v", text, v, err)
		}
		if out, err := Encode(want); err != nil || !bytes.Equal(out, b) {
			t.Errorf("%s: written %x, %v", text, out, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": "", "two values": "0000", "not shortest": "1817", "not shortest, 16 bits": "190017", "indefinite bytes": "5f42010243030405ff", "indefinite array": "9fff",
		"a float": "f90000", "undefined": "f7", "cut": "4401", "huge bytes": "5bffffffffffffffff", "huge array": "9bffffffffffffffff", "huge map": "bbffffffffffffffff",
		"twice": "a201010102", "a key of bytes": "a14100f6", "no UTF-8": "61ff", "out of range": "3bffffffffffffffff", "a reserved length": "1c", "deep": strings.Repeat("81", 20) + "00",
		"many": "990400" + strings.Repeat("00", 1024),
	} {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := Decode(b); err == nil {
			t.Errorf("%s: %v", name, v)
		}
	}
	if _, err := Decode(make([]byte, MaxSize+1)); err == nil {
		t.Error("too long, and accepted")
	}
	if _, err := Encode(1.5); err == nil {
		t.Error("a float written")
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"a26161016162820203", "8443a10126a0f640", "d28443a10126a0f640", "1bffffffffffffffff", "3863", "f5"} {
		b, err := hex.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Decode(b)
		if err != nil {
			return
		}
		// One form only, so it is written as it was read.
		if out, err := Encode(v); err != nil || !bytes.Equal(out, b) {
			t.Errorf("%x, then %x, %v", b, out, err)
		}
	})
}
