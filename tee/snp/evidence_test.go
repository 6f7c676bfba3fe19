package snp

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	gsgtest "github.com/google/go-sev-guest/verify/testdata"

	"github.com/cofferproject/coffer/test/vectors"
)

func read(t testing.TB, sub, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, sub), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rawReports gives every outside report that is at hand, in binary form.
func rawReports(t testing.TB) map[string][]byte {
	m := map[string][]byte{"go-sev-guest": gsgtest.AttestationBytes, "test-report": read(t, "snp", "test-report.bin")}
	h, err := hex.DecodeString(strings.TrimSpace(string(read(t, "snp", "report_milan.hex"))))
	if err != nil {
		t.Fatal(err)
	}
	m["milan"] = h
	return m
}

func TestReportBinaryRoundTrip(t *testing.T) {
	for name, raw := range rawReports(t) {
		r, err := ParseReport(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(r.Bytes(), raw) {
			t.Errorf("%s: not the same bytes", name)
		}
		b := r.AppendJSON(nil)
		again, err := ParseReportJSON(b)
		if err != nil || !reflect.DeepEqual(r, again) {
			t.Errorf("%s: JSON form: %v", name, err)
		}
	}
}

// Every byte of a report is either carried or refused: a flipped bit never gets
// lost on the way through the JSON form.
func TestNoByteIsLost(t *testing.T) {
	good := gsgtest.AttestationBytes
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 0x40
		r, err := ParseReport(b)
		if err != nil {
			continue
		}
		again, err := ParseReportJSON(r.AppendJSON(nil))
		if err != nil || !bytes.Equal(again.Bytes(), b) {
			t.Errorf("byte %#x: lost, %v", i, err)
		}
	}
}

func TestPublishedEvidenceByteForByte(t *testing.T) {
	b := bytes.TrimSpace(read(t, "as", "evidence.json"))
	e, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if e.Report.Version != 3 || *e.Report.CPU != (CPUID{0x19, 0xA0, 2}) || len(e.Certs) != 1 || e.Certs[0].Type != CertVCEK {
		t.Errorf("got version %d, cpu %v, %d certificates", e.Report.Version, e.Report.CPU, len(e.Certs))
	}
	out, err := e.Encode()
	if err != nil || !bytes.Equal(out, b) {
		t.Errorf("not the same bytes: %v\n%.400s", err, out)
	}
	raw := e.Report.Bytes()
	r, err := ParseReport(raw)
	if err != nil {
		t.Fatal(err)
	}
	if tcb := r.ReportedTCB.Bytes(); hex.EncodeToString(tcb[:]) != "0a00000000001719" || !bytes.Equal(raw[0x180:0x188], tcb[:]) {
		t.Errorf("reported TCB %x", tcb)
	}
	// A pretty-printed copy means the same.
	var v bytes.Buffer
	if err := json.Indent(&v, b, "", "  "); err != nil {
		t.Fatal(err)
	}
	if again, err := Parse(v.Bytes()); err != nil || !reflect.DeepEqual(e, again) {
		t.Errorf("indented: %v", err)
	}
}

// turin is a version 5 report as Turin lays it out; nobody outside made it.
func turin(t testing.TB) []byte {
	t.Helper()
	raw := bytes.Clone(gsgtest.AttestationBytes)
	raw[0] = 5
	copy(raw[offCPUID:], []byte{0x1A, 0x02, 0x01})
	for _, o := range []int{0x38, 0x180, 0x1E0, 0x1F0} {
		copy(raw[o:], []byte{1, 2, 3, 4, 0, 0, 0, 5})
	}
	clear(raw[offChipID+8 : offChipID+64])
	raw[offMit], raw[offMit+8] = 7, 9
	return raw
}

func TestTurinLayout(t *testing.T) {
	raw := turin(t)
	r, err := ParseReport(raw)
	if err != nil {
		t.Fatal(err)
	}
	want := TCB{WithFMC: true, FMC: 1, Bootloader: 2, TEE: 3, SNP: 4, Microcode: 5}
	if r.ReportedTCB != want || *r.LaunchMit != 7 || *r.CurrentMit != 9 {
		t.Errorf("got %v, %d, %d", r.ReportedTCB, *r.LaunchMit, *r.CurrentMit)
	}
	again, err := ParseReportJSON(r.AppendJSON(nil))
	if err != nil || !bytes.Equal(again.Bytes(), raw) {
		t.Errorf("JSON form: %v", err)
	}
	v2 := bytes.Clone(raw)
	v2[0] = 2
	clear(v2[offCPUID : offCPUID+3])
	clear(v2[offMit : offMit+16])
	if r, err = ParseReport(v2); err != nil || r.ReportedTCB != want {
		t.Errorf("version 2 with a chip id of eight bytes: %v, %v", r, err)
	}
}

func TestMalformedEvidence(t *testing.T) {
	r, err := ParseReport(gsgtest.AttestationBytes)
	if err != nil {
		t.Fatal(err)
	}
	good, err := (&Evidence{Report: r, Certs: []Cert{{CertVCEK, []byte{1, 2}}, {"01234567-89ab-cdef-0123-456789abcdef", nil}}, Simulation: "a \"note\""}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if e, err := Parse(good); err != nil || e.Simulation != "a \"note\"" || len(e.Certs) != 2 {
		t.Fatalf("%v, %v", e, err)
	}
	for name, change := range map[string][2]string{
		"unknown member":        {`"vmpl":0`, `"vmpl":0,"more":1`},
		"twice":                 {`"vmpl":0`, `"vmpl":0,"vmpl":0`},
		"other case":            {`"vmpl"`, `"VMPL"`},
		"missing":               {`"vmpl":0,`, ``},
		"negative":              {`"vmpl":0`, `"vmpl":-1`},
		"fraction":              {`"vmpl":0`, `"vmpl":0.0`},
		"leading zero":          {`"vmpl":0`, `"vmpl":00`},
		"above u32":             {`"vmpl":0`, `"vmpl":4294967296`},
		"above u64":             {`"plat_info":1`, `"plat_info":18446744073709551616`},
		"byte of 256":           {`"data":[1,2]`, `"data":[1,256]`},
		"short array":           {`"image_id":[0,`, `"image_id":[`},
		"long array":            {`"image_id":[0,`, `"image_id":[0,0,`},
		"version 1":             {`"version":2`, `"version":1`},
		"version 6":             {`"version":2`, `"version":6`},
		"cpuid in version 2":    {`"cpuid_fam_id":null,"cpuid_mod_id":null,"cpuid_step":null`, `"cpuid_fam_id":25,"cpuid_mod_id":1,"cpuid_step":1`},
		"cpuid in part":         {`"cpuid_step":null`, `"cpuid_step":1`},
		"version 3 w/o cpuid":   {`"version":2`, `"version":3`},
		"vectors in version 2":  {`"launch_mit_vector":null`, `"launch_mit_vector":1`},
		"fmc without a turin":   {`"fmc":null`, `"fmc":1`},
		"unknown type of cert":  {`"VCEK"`, `"VCEC"`},
		"bad GUID":              {`01234567-`, `0123456--`},
		"null report":           {`{"attestation_report":{`, `{"attestation_report":null,"x":{`},
		"escaped member":        {`"vmpl"`, `"vm\u0070l"`},
		"note of several lines": {`a \"note\"`, `a\nb`},
		"lone surrogate quote":  {`a \"note\"`, `a \"note\`},
	} {
		if !bytes.Contains(good, []byte(change[0])) {
			t.Errorf("%s: %q is not in the good document", name, change[0])
			continue
		}
		if _, err := Parse(bytes.Replace(good, []byte(change[0]), []byte(change[1]), 1)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	many := &Evidence{Report: r, Certs: make([]Cert, MaxCerts+1)}
	if _, err := many.Encode(); err == nil {
		t.Error("too many certificates encoded")
	}
	if _, err := Parse(bytes.Repeat([]byte{' '}, MaxEvidence+1)); err == nil {
		t.Error("too long: accepted")
	}
	for n := range len(good) {
		if _, err := Parse(good[:n]); err == nil {
			t.Fatalf("cut to %d bytes: accepted", n)
		}
	}
}

func TestVersionIsTold(t *testing.T) {
	b := bytes.Clone(gsgtest.AttestationBytes)
	b[0] = 6
	if _, err := ParseReport(b); !errors.Is(err, ErrVersion) {
		t.Errorf("got %v", err)
	}
}

func TestTable(t *testing.T) {
	in := []Cert{{CertVCEK, []byte("vcek")}, {CertASK, []byte("ask")}, {CertARK, []byte("ark")}, {"01234567-89ab-cdef-0123-456789abcdef", []byte{}}, {CertEmpty, []byte("x")}}
	b, err := EncodeTable(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := ParseTable(append(b, make([]byte, 4096)...))
	if err != nil || !reflect.DeepEqual(in, out) {
		t.Errorf("got %v, %v", out, err)
	}
	if got := hex.EncodeToString(b[:24]); got != "63da758de6644564adc5f4b93be8accd"+"90000000"+"04000000" {
		t.Errorf("first entry %s", got)
	}
	for _, empty := range [][]byte{nil, make([]byte, 24), make([]byte, 4096)} {
		if out, err := ParseTable(empty); err != nil || out != nil {
			t.Errorf("empty table: %v, %v", out, err)
		}
	}
	for name, bad := range map[string][]byte{
		"no end": b[:24], "offset": append([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0}, make([]byte, 24)...),
		"cut": b[:len(b)-5], "odd": b[:25],
	} {
		if _, err := ParseTable(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	r, err := ParseReport(gsgtest.AttestationBytes)
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range []*Evidence{{Report: r}, {Report: r, Certs: []Cert{{CertVCEK, []byte{1}}}, Simulation: "x"}} {
		b, err := e.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	if _, err := os.Stat("../../../shared/vectors/as"); err == nil {
		f.Add(read(f, "as", "evidence.json"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Parse(b)
		if err != nil {
			return
		}
		out, err := e.Encode()
		if err != nil {
			t.Fatalf("parsed and not encoded: %v", err)
		}
		again, err := Parse(out)
		if err != nil || !bytes.Equal(e.Report.Bytes(), again.Report.Bytes()) {
			t.Fatalf("not the same again: %v", err)
		}
		if _, err := ParseReport(e.Report.Bytes()); err != nil {
			t.Fatalf("binary form: %v", err)
		}
	})
}

func FuzzParseReport(f *testing.F) {
	f.Add(gsgtest.AttestationBytes)
	f.Add(turin(f))
	if _, err := os.Stat("../../../shared/vectors/snp"); err == nil {
		f.Add(read(f, "snp", "test-report.bin"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReport(b)
		if err == nil && !bytes.Equal(r.Bytes(), b) {
			t.Fatal("not the same bytes")
		}
	})
}

func FuzzParseTable(f *testing.F) {
	b, err := EncodeTable([]Cert{{CertVCEK, []byte("vcek")}, {CertASK, []byte("ask")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := ParseTable(b)
		if err != nil {
			return
		}
		n := 0
		for _, c := range out {
			n += len(c.Data)
		}
		if len(out) > MaxCerts || n > MaxCerts*MaxCert {
			t.Fatal("no bound")
		}
	})
}
