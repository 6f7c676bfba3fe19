package boot

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"testing"

	"github.com/cofferproject/coffer/api/initdata"
)

// registers is a module with one register for the guest.
type registers struct {
	hash     string
	value    []byte
	extended [][]byte
}

func (r *registers) Hash() string { return r.hash }
func (r *registers) Register(pcr int) (int, error) {
	if pcr != 8 {
		return 0, errors.New("no such register")
	}
	return 16, nil
}

func (r *registers) Extend(_ context.Context, n int, d []byte) error {
	if n != 16 {
		return errors.New("another register")
	}
	r.extended = append(r.extended, d)
	return nil
}

func (r *registers) Read(context.Context, int) ([]byte, error) { return r.value, nil }

func TestExtended(t *testing.T) {
	doc := []byte("version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"a\" = \"b\"\n")
	sum, none := sha512.Sum384(doc), initdata.NoneDigest()
	for name, c := range map[string]struct {
		r     *registers
		plain []byte
		want  []byte
	}{
		"document":  {&registers{"sha384", make([]byte, 48), nil}, doc, sum[:]},
		"no device": {&registers{"sha384", make([]byte, 48), nil}, nil, initdata.Fit(none[:], 48)},
		"not zero":  {&registers{"sha384", bytes.Repeat([]byte{1}, 48), nil}, doc, nil},
		"no value":  {&registers{"sha384", nil, nil}, doc, nil},
		"unknown":   {&registers{"md5", make([]byte, 16), nil}, doc, nil},
	} {
		_, err := bind(c.plain, &Extended{Name: "nitro", Registers: c.r})
		if (err != nil) != (c.want == nil) {
			t.Errorf("%s: error %v", name, err)
		}
		if c.want == nil && len(c.r.extended) != 0 {
			t.Errorf("%s: extended all the same", name)
		}
		if c.want != nil && (len(c.r.extended) != 1 || !bytes.Equal(c.r.extended[0], c.want)) {
			t.Errorf("%s: extended with %x", name, c.r.extended)
		}
	}
}
