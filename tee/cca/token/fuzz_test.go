package token_test

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/cofferproject/coffer/tee/cca"
	"github.com/cofferproject/coffer/tee/cca/sim"
	"github.com/cofferproject/coffer/tee/cca/token"
)

func seeds(f *testing.F) {
	key, _, err := sim.NewRoot(time.Now())
	if err != nil {
		f.Fatal(err)
	}
	m, err := sim.New(key, &sim.Inputs{Kernel: []byte("kernel"), MemoryMiB: 256, VCPUs: 1}, "")
	if err != nil {
		f.Fatal(err)
	}
	b, err := m.Token([64]byte{1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xd9, 0x01, 0x8f, 0xa0})
	f.Add([]byte{0xd9, 0x01, 0x8f, 0xa1, 0x19, 0xac, 0xca, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	if v, err := os.ReadFile("../../../../shared/vectors/cca/cca-example-token.cbor"); err == nil {
		f.Add(v)
	}
}

func FuzzToken(f *testing.F) {
	seeds(f)
	f.Fuzz(func(_ *testing.T, b []byte) {
		t, err := token.Parse(b)
		if err != nil {
			return
		}
		_ = t.VerifyRealm()
		t.RAKHash()
	})
}

// The guest's small reader and the decoder agree on what they both take.
func FuzzPersonalizationValue(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		rpv, err := cca.PersonalizationValue(b)
		full, fullErr := token.Parse(b)
		if err == nil && fullErr == nil && !bytes.Equal(rpv, full.Realm.RPV) {
			t.Errorf("%x and %x", rpv, full.Realm.RPV)
		}
	})
}

func FuzzEvidence(f *testing.F) {
	f.Add([]byte(`{"token":[1,2,3]}`))
	f.Add([]byte(`{"token":[217,1,143],"simulation":"note"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := cca.Parse(b)
		if err != nil {
			return
		}
		out, err := e.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		again, err := cca.Parse(out)
		if err != nil || !bytes.Equal(again.Token, e.Token) {
			t.Errorf("%q is not read again: %v", out, err)
		}
	})
}
