package collateral

import (
	"strings"
	"testing"
	"time"
)

func item(origin string) *Item {
	return &Item{Origin: origin, Body: []byte("body"), Fetched: time.Unix(1_700_000_000, 0).UTC()}
}

func TestBundle(t *testing.T) {
	s := NewSet(item("https://b.example/x"), item("https://a.example/x"))
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if l := got.Items(); len(l) != 2 || l[0].Origin != "https://a.example/x" || string(l[1].Body) != "body" {
		t.Errorf("items %+v", l)
	}
	if _, ok := got.Get("https://c.example/x"); ok {
		t.Error("an item that is not there")
	}
}

func TestParseRefuses(t *testing.T) {
	good := `{"version":1,"items":[{"origin":"https://a.example/x","body":"Ym9keQ==","fetched":"2026-01-01T00:00:00Z"}]}`
	if _, err := Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]string{
		"unknown member": strings.Replace(good, `"version"`, `"x":1,"version"`, 1),
		"version":        strings.Replace(good, `"version":1`, `"version":2`, 1),
		"plain http":     strings.Replace(good, "https:", "http:", 1),
		"no body":        strings.Replace(good, "Ym9keQ==", "", 1),
		"no time":        strings.Replace(good, `,"fetched":"2026-01-01T00:00:00Z"`, "", 1),
		"null item":      `{"version":1,"items":[null]}`,
		"twice":          strings.Replace(good, `[{`, `[{"origin":"https://a.example/x","body":"Ym9keQ==","fetched":"2026-01-01T00:00:00Z"},{`, 1),
		"data after":     good + "{}",
	} {
		if _, err := Parse([]byte(b)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	b, err := NewSet(item("https://a.example/x")).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		if _, err := s.Encode(); err != nil {
			t.Error(err)
		}
	})
}
