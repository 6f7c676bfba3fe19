package sim

import (
	"bytes"
	"testing"

	"github.com/cofferproject/coffer/api/simhw"
	intelsim "github.com/cofferproject/coffer/tee/intel/sim"
)

// A sealing key is the same for what its policy names, and another one for all else.
func TestSealingKey(t *testing.T) {
	machine, err := intelsim.New(intelsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	enclave := func(mr, signer, config byte, fuses string) *Enclave {
		e := New(machine, Measured{MREnclave: [32]byte{mr}, MRSigner: [32]byte{signer}, ConfigID: [64]byte{config}})
		e.SetFuses([]byte(fuses))
		return e
	}
	// The SDM's values (volume 3D, KEYPOLICY).
	if simhw.KeyPolicyMREnclave != 1 || simhw.KeyPolicyMRSigner != 2 || simhw.KeyPolicyConfigID != 8 {
		t.Error("other bits than the hardware's")
	}
	const me, signer, config = simhw.KeyPolicyMREnclave, simhw.KeyPolicyMRSigner, simhw.KeyPolicyConfigID
	base := enclave(1, 1, 1, "cpu")
	for _, c := range []struct {
		name   string
		other  *Enclave
		policy byte
		same   bool
	}{
		{"itself", enclave(1, 1, 1, "cpu"), me | config, true},
		{"another enclave", enclave(2, 1, 1, "cpu"), me, false},
		{"another enclave of the signer", enclave(2, 1, 1, "cpu"), signer, true},
		{"another signer", enclave(1, 2, 1, "cpu"), signer, false},
		{"another initdata", enclave(1, 1, 2, "cpu"), me | config, false},
		{"another initdata, which does not matter", enclave(1, 1, 2, "cpu"), me, true},
		{"another CPU", enclave(1, 1, 1, "other"), me, false},
	} {
		a, err1 := base.SealingKey(c.policy, []byte("id"))
		b, err2 := c.other.SealingKey(c.policy, []byte("id"))
		if err1 != nil || err2 != nil || len(a) != simhw.SealingKeySize || bytes.Equal(a, b) != c.same {
			t.Errorf("%s: %x, %x, %v, %v", c.name, a, b, err1, err2)
		}
	}
	a, _ := base.SealingKey(me, []byte("id"))
	if b, _ := base.SealingKey(me, []byte("another")); bytes.Equal(a, b) {
		t.Error("two key ids, one key")
	}
	for name, f := range map[string]func() ([]byte, error){
		"no policy":         func() ([]byte, error) { return base.SealingKey(config, nil) },
		"an unknown policy": func() ([]byte, error) { return base.SealingKey(me|0x80, nil) },
		"a long id":         func() ([]byte, error) { return base.SealingKey(me, make([]byte, MaxKeyID+1)) },
		"no fuses":          func() ([]byte, error) { return enclave(1, 1, 1, "").SealingKey(me, nil) },
	} {
		if k, err := f(); err == nil {
			t.Errorf("%s: %x", name, k)
		}
	}
}
