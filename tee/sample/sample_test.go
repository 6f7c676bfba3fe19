package sample

import (
	"encoding/json"
	"strings"
	"testing"
)

const good = `{"svn":"1","report_data":"YWJj"}`

func TestCodec(t *testing.T) {
	e, err := Parse([]byte(good))
	if err != nil || e.SVN != SVN || string(e.ReportData) != "abc" {
		t.Fatalf("%+v, %v", e, err)
	}
	if b, err := json.Marshal(e); err != nil || string(b) != good {
		t.Errorf("%s, %v", b, err)
	}
	for name, s := range map[string]string{
		"no svn": `{"report_data":"YWJj"}`, "a number": `{"svn":1,"report_data":"YWJj"}`, "no report data": `{"svn":"1"}`, "not base64": `{"svn":"1","report_data":"YWJ"}`,
		"twice": `{"svn":"1","svn":"2","report_data":"YWJj"}`, "long svn": `{"svn":"` + strings.Repeat("1", 65) + `","report_data":"YWJj"}`,
		"long report data": `{"svn":"1","report_data":"` + strings.Repeat("AAAA", 400) + `"}`,
	} {
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
		if again, err := Parse(out); err != nil || again.SVN != e.SVN {
			t.Errorf("%s: %v", out, err)
		}
	})
}
