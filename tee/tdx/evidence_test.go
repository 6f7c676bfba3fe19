package tdx

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/test/vectors"
)

func TestPublishedForm(t *testing.T) {
	for _, c := range []struct {
		e    Evidence
		want string
	}{
		{Evidence{Quote: []byte{1, 2}}, `{"cc_eventlog":null,"quote":"AQI="}`},
		{Evidence{Quote: []byte{1}, EventLog: []byte{3}}, `{"cc_eventlog":"Aw==","quote":"AQ=="}`},
		{Evidence{Quote: []byte{1}, EventLog: []byte{3}, Simulation: "not real"}, `{"cc_eventlog":"Aw==","quote":"AQ==","simulation":"not real"}`},
	} {
		b, err := c.e.Encode()
		if err != nil || string(b) != c.want {
			t.Errorf("got %s, %v, want %s", b, err, c.want)
		}
		e, err := Parse(b)
		if err != nil || !bytes.Equal(e.Quote, c.e.Quote) || !bytes.Equal(e.EventLog, c.e.EventLog) || e.Simulation != c.e.Simulation {
			t.Errorf("%s: %+v, %v", b, e, err)
		}
	}
	for _, s := range []string{`{"quote":"AQI="}`, `{"cc_eventlog":"","quote":"AQI="}`} {
		if e, err := Parse([]byte(s)); err != nil || len(e.EventLog) != 0 {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{
		``, `null`, `{}`, `[]`, `{"quote":""}`, `{"quote":null}`, `{"quote":"*"}`, `{"quote":"AQI=","more":1}`, `{"quote":"AQI="}{}`, `{"quote":"AQI=","simulation":"a\nb"}`,
		`{"quote":"AQI=","cc_eventlog":"` + strings.Repeat("AAAA", MaxEventLog/3+1) + `"}`,
	} {
		if _, err := Parse([]byte(s)); err == nil {
			t.Errorf("%.60s: accepted", s)
		}
	}
}

func TestRegister(t *testing.T) {
	for pcr, want := range map[int]int{0: 3, 1: 0, 7: 0, 2: 1, 6: 1, 8: 2, 15: 2, 16: 3, 17: 3, 23: 3} {
		if r, err := Register(pcr); err != nil || r != want {
			t.Errorf("PCR %d: %d, %v", pcr, r, err)
		}
	}
	for _, pcr := range []int{-1, 24} {
		if _, err := Register(pcr); !errors.Is(err, attest.ErrUnsupported) {
			t.Errorf("PCR %d: %v", pcr, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"cc_eventlog":null,"quote":"AQI="}`))
	if _, err := os.Stat("../../../shared/vectors/tdx"); err == nil {
		q, err := os.ReadFile(filepath.Join(vectors.Dir(f, "tdx"), "tdx_quote_4.dat"))
		if err != nil {
			f.Fatal(err)
		}
		b, err := (&Evidence{Quote: q, EventLog: []byte{1}}).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Parse(b)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if f, err := Parse(again); err != nil || !bytes.Equal(f.Quote, e.Quote) || !bytes.Equal(f.EventLog, e.EventLog) {
			t.Errorf("%s: %v", again, err)
		}
	})
}
