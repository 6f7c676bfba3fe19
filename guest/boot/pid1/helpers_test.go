package pid1

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/initdata"
)

func TestInitdataThroughThePipe(t *testing.T) {
	for _, plain := range [][]byte{nil, {}, []byte("version = \"0.1.0\""), bytes.Repeat([]byte{'x'}, initdata.MaxPlain)} {
		var b bytes.Buffer
		if err := writeInitdata(&b, plain); err != nil {
			t.Fatal(err)
		}
		got, err := readInitdata(&b)
		if err != nil || !bytes.Equal(got, plain) || (got == nil) != (plain == nil) {
			t.Errorf("%d bytes became %d, %v", len(plain), len(got), err)
		}
	}
	// A pipe that closes early is not a guest without initdata.
	for _, wire := range []string{"", "x", "00", "1" + strings.Repeat("x", initdata.MaxPlain+1)} {
		if got, err := readInitdata(strings.NewReader(wire)); err == nil {
			t.Errorf("%.3q: accepted as %d bytes", wire, len(got))
		}
	}
	if _, err := readInitdata(io.MultiReader(strings.NewReader("1x"), brokenReader{})); err == nil {
		t.Error("a broken pipe was accepted")
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
