package boot

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"testing"
)

type value []byte

func (v value) InitdataRegister(context.Context) ([]byte, error) {
	if v == nil {
		return nil, errors.New("no answer")
	}
	return v, nil
}

// TestLaunchBound checks the rule of design.md section 4: a zero register with a
// device, or a value without one, stops the guest.
func TestLaunchBound(t *testing.T) {
	doc := []byte(document)
	s256, s384 := sha256.Sum256(doc), sha512.Sum384(doc)
	other := sha256.Sum256([]byte("other"))
	sha384Doc := []byte("version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"a\" = \"b\"\n")
	right384 := sha512.Sum384(sha384Doc)
	for name, c := range map[string]struct {
		tee   string
		reg   value
		plain []byte
		want  error
		fails bool
	}{
		"snp":                  {"snp", s256[:], doc, nil, false},
		"tdx":                  {"tdx", right384[:], sha384Doc, nil, false},
		"tdx, document sha256": {"tdx", s384[:], doc, nil, true}, // bound, and of the wrong algorithm
		"none and none":        {"snp", make(value, 32), nil, nil, false},
		"zero with a device":   {"snp", make(value, 32), doc, ErrRegisterZero, true},
		"value without device": {"snp", s256[:], nil, ErrRegisterSet, true},
		"other":                {"snp", other[:], doc, ErrRegisterDiffer, true},
		"short register":       {"snp", s256[:16], doc, nil, true},
		"silent":               {"snp", nil, doc, nil, true},
	} {
		in, err := bind(c.plain, &LaunchBound{Name: c.tee, Reader: c.reg})
		if (err != nil) != c.fails || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
		if err == nil && (in.Document == nil) != (c.plain == nil) {
			t.Errorf("%s: %+v", name, in)
		}
	}
}
