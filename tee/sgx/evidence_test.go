package sgx

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/cofferproject/coffer/test/vectors"
)

func TestPublishedForm(t *testing.T) {
	for _, c := range []struct {
		e    Evidence
		want string
	}{
		{Evidence{Quote: []byte{1, 2}}, `{"quote":"AQI="}`},
		{Evidence{Quote: []byte{1}, Simulation: "not real"}, `{"quote":"AQ==","simulation":"not real"}`},
	} {
		b, err := c.e.Encode()
		if err != nil || string(b) != c.want {
			t.Errorf("got %s, %v, want %s", b, err, c.want)
		}
		if e, err := Parse(b); err != nil || !bytes.Equal(e.Quote, c.e.Quote) || e.Simulation != c.e.Simulation {
			t.Errorf("%s: %v", b, err)
		}
	}
	for _, s := range []string{``, `null`, `{}`, `[]`, `{"quote":""}`, `{"quote":null}`, `{"quote":"*"}`, `{"quote":"AQI=","more":1}`, `{"quote":"AQI="}{}`, `{"quote":"AQI=","simulation":"a\nb"}`} {
		if _, err := Parse([]byte(s)); err == nil {
			t.Errorf("%s: accepted", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"quote":"AQI="}`))
	if _, err := os.Stat("../../../shared/vectors/sgx"); err == nil {
		q, err := os.ReadFile(filepath.Join(vectors.Dir(f, "sgx"), "occlum_quote.dat"))
		if err != nil {
			f.Fatal(err)
		}
		b, err := (&Evidence{Quote: q}).Encode()
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
		if f, err := Parse(again); err != nil || !bytes.Equal(f.Quote, e.Quote) {
			t.Errorf("%s: %v", again, err)
		}
	})
}
