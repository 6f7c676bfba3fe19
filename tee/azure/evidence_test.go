package azure

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/test/vectors"
)

// published lists the vectors: evidence of real machines.
var published = []struct {
	file, tee string
	version   int
	pcr0      string
	vm        string
}{
	{"evidence-v2.json", SNP, 2, "84275b2f", "7DF7B373-B947-4AAA-96E5-C358F2A03D20"},
	{"evidence-genoa.json", SNP, 0, "afd689d0", "390CBCF5-6C67-4D9B-98EF-C3F1699CC8FC"},
	{"az-tdx-evidence-v1.json", TDX, 1, "782b20b1", "6332533D-5649-4D02-8AA7-8F64B7C3EE21"},
}

func vector(t testing.TB, name string) []byte {
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "azure"), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPublishedEvidence(t *testing.T) {
	for _, p := range published {
		t.Run(p.file, func(t *testing.T) {
			raw := vector(t, p.file)
			e, err := Parse(p.tee, raw)
			if err != nil {
				t.Fatal(err)
			}
			if e.Version != p.version || !strings.HasPrefix(hex.EncodeToString(e.Quote.PCRs[0][:]), p.pcr0) {
				t.Errorf("version %d, PCR 0 %x", e.Version, e.Quote.PCRs[0])
			}
			out, err := e.Encode()
			if err != nil {
				t.Fatal(err)
			}
			var a, b any
			if json.Unmarshal(raw, &a) != nil || json.Unmarshal(out, &b) != nil || !reflect.DeepEqual(a, b) {
				t.Errorf("encoded as %.200s", out)
			}
			h, err := ParseHCL(e.HCLReport)
			if err != nil {
				t.Fatal(err)
			}
			back, err := EncodeHCL(h)
			if err != nil || h.TEE != p.tee || !bytes.Equal(back[runtimeOffset:], e.HCLReport[runtimeOffset:len(back)]) {
				t.Errorf("HCL report of %s, %v", h.TEE, err)
			}
			field := h.Hardware[0x50:0x90]
			if p.tee == TDX {
				field = h.Hardware[128:192]
			}
			if sum := h.ClaimsHash(); !bytes.Equal(field, append(sum[:], make([]byte, 32)...)) {
				t.Errorf("report data %x", field)
			}
			c, err := ParseRuntimeClaims(h.RuntimeClaims)
			if err != nil || c.AK.N.BitLen() != 2048 || c.VMConfiguration["vmUniqueId"] != p.vm || len(c.UserData) != UserDataSize {
				t.Errorf("%+v, %v", c, err)
			}
			if _, err := Parse(map[string]string{SNP: TDX, TDX: SNP}[p.tee], raw); err == nil {
				t.Error("taken for evidence of the other TEE")
			}
		})
	}
}

// Every byte of the report outside the hardware's report and the claims is fixed.
func TestHCLLayout(t *testing.T) {
	for _, p := range published {
		e, err := Parse(p.tee, vector(t, p.file))
		if err != nil {
			t.Fatal(err)
		}
		h, err := ParseHCL(e.HCLReport)
		if err != nil {
			t.Fatal(err)
		}
		for i := range e.HCLReport {
			if i >= hwOffset && i < hwOffset+len(h.Hardware) || i >= claimsOffset && i < claimsOffset+len(h.RuntimeClaims) {
				continue
			}
			bent := bytes.Clone(e.HCLReport)
			bent[i] ^= 4
			if o, err := ParseHCL(bent); err == nil && o.TEE == h.TEE {
				t.Errorf("%s: byte %d bent: accepted", p.file, i)
			}
		}
		for _, n := range []int{0, 31, claimsOffset - 1, claimsOffset, claimsOffset + len(h.RuntimeClaims) - 1} {
			if _, err := ParseHCL(e.HCLReport[:n]); err == nil {
				t.Errorf("%s: cut to %d bytes: accepted", p.file, n)
			}
		}
		if _, err := ParseHCL(append(bytes.Clone(e.HCLReport), make([]byte, MaxReport)...)); err == nil {
			t.Errorf("%s: longer than any: accepted", p.file)
		}
	}
}

func TestMalformedEvidence(t *testing.T) {
	e := &Evidence{TEE: SNP, Version: 2, HCLReport: []byte{1}, VCEK: []byte{2}, Quote: Quote{[]byte{3}, []byte{4}, make([][32]byte, PCRCount)}}
	good, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if o, err := Parse(SNP, good); err != nil || !reflect.DeepEqual(o, e) {
		t.Fatalf("%+v, %v", o, err)
	}
	s := string(good)
	pcr := strings.Repeat("0", 64)
	for name, bent := range map[string]string{
		"unknown member": `{"x":1,` + s[1:], "version 3": strings.Replace(s, `"version":2`, `"version":3`, 1), "version as text": strings.Replace(s, `"version":2`, `"version":"2"`, 1),
		"version null": strings.Replace(s, `"version":2`, `"version":null`, 1), "23 PCRs": strings.Replace(s, `"`+pcr+`",`, "", 1), "short PCR": strings.Replace(s, pcr, pcr[2:], 1),
		"no report": strings.Replace(s, `"AQ=="`, `""`, 1), "base64 with line break": strings.Replace(s, `"AQ=="`, `"A\nQ=="`, 1), "loose base64": strings.Replace(s, `"AQ=="`, `"AR=="`, 1),
		"standard base64": strings.Replace(s, `"AQ=="`, `"+/+/"`, 1), "no vcek": strings.Replace(s, `,"vcek":"Ag=="`, "", 1), "both": strings.Replace(s, `,"vcek"`, `,"td_quote":"Ag==","vcek"`, 1),
		"two lines of note": s[:len(s)-1] + `,"simulation":"a\nb"}`, "two documents": s + "{}", "odd hex": strings.Replace(s, `"03"`, `"3"`, 1), "null": "null", "array": "[]", "nothing": "",
		"too long":             s + strings.Repeat(" ", MaxEvidence),
		"numbers out of range": `{"quote":{"signature":[256],"message":[1],"pcrs":[]},"report":[1],"vcek":""}`,
		"nested numbers":       `{"quote":{"signature":[[1]],"message":[1],"pcrs":[]},"report":[1],"vcek":""}`,
	} {
		if _, err := Parse(SNP, []byte(bent)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if o, err := Parse(SNP, []byte(strings.Replace(s, `"AQ=="`, `"AQ"`, 1))); err != nil || !bytes.Equal(o.HCLReport, e.HCLReport) {
		t.Errorf("base64url without padding: %v", err)
	}
	if _, err := Parse("snp", good); err == nil {
		t.Error("taken for TEE snp")
	}
}

func TestRuntimeClaims(t *testing.T) {
	n := strings.Repeat("_", 341) + "w" // 2048 one bits
	key := `{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA","e":"AQAB","n":"` + n + `"}`
	good := `{"keys":[` + key + `],"user-data":"` + strings.Repeat("0", 128) + `"}`
	if _, err := ParseRuntimeClaims([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, bent := range map[string]string{
		"two AKs": strings.Replace(good, key, key+","+key, 1), "no AK": strings.Replace(good, "HCLAkPub", "HCLEkPub", 1), "key for encryption": strings.Replace(good, "sign", "encrypt", 1),
		"exponent 3": strings.Replace(good, "AQAB", "Aw", 1), "short modulus": strings.Replace(good, n, n[:340], 1), "long modulus": strings.Replace(good, n, strings.Repeat("_", 700), 1), "loose modulus": strings.Replace(good, n, n[:341]+"_", 1),
		"even modulus": strings.Replace(good, n, n[:341]+"g", 1), "elliptic": strings.Replace(good, "RSA", "EC", 1), "short user data": strings.Replace(good, `"00`, `"`, 1),
		"user data not hex": strings.Replace(good, `"00`, `"0x`, 1), "17 keys": strings.Replace(good, key, key+strings.Repeat(`,{"kid":"x"}`, 16), 1), "no JSON": good[1:],
		"too long": good + strings.Repeat(" ", MaxReport),
	} {
		if _, err := ParseRuntimeClaims([]byte(bent)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	e := &Evidence{TEE: SNP, Version: 2, HCLReport: []byte{1}, VCEK: []byte{2}, Quote: Quote{[]byte{3}, []byte{4}, make([][32]byte, PCRCount)}}
	for _, v := range []int{0, 1, 2} {
		e.Version = v
		b, err := e.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
	}
	if _, err := os.Stat("../../../shared/vectors/azure"); err == nil {
		for _, p := range published {
			f.Add(vector(f, p.file), p.tee == TDX)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, tdx bool) {
		tee := SNP
		if tdx {
			tee = TDX
		}
		e, err := Parse(tee, b)
		if err != nil {
			return
		}
		out, err := e.Encode()
		if err != nil {
			t.Fatalf("read but not written: %v", err)
		}
		o, err := Parse(tee, out)
		if err != nil {
			t.Fatalf("written but not read: %v", err)
		}
		e.pem, o.pem = "", ""
		if !reflect.DeepEqual(e, o) {
			t.Errorf("%+v became %+v", e, o)
		}
	})
}

func FuzzHCL(f *testing.F) {
	b, err := EncodeHCL(&HCL{TEE: SNP, Hardware: make([]byte, SNPReportSize), RuntimeClaims: []byte(`{"keys":[]}`)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	if _, err := os.Stat("../../../shared/vectors/azure"); err == nil {
		for _, p := range published {
			e, err := Parse(p.tee, vector(f, p.file))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(e.HCLReport)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHCL(b)
		if err != nil {
			return
		}
		if _, err := EncodeHCL(h); err != nil {
			t.Error(err)
		}
		if c, err := ParseRuntimeClaims(h.RuntimeClaims); err == nil && (c.AK == nil || c.UserData != nil && len(c.UserData) != UserDataSize) {
			t.Errorf("%+v", c)
		}
	})
}
