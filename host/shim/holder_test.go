package shim

import (
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/host/hostcheck"
)

// A node without hardware never falls back to a simulation.
func TestNodeHardware(t *testing.T) {
	with := func(ready ...launch.TEE) func(launch.TEE) error {
		return func(tee launch.TEE) error {
			for _, r := range ready {
				if r == tee {
					return nil
				}
			}
			return &hostcheck.NotReadyError{TEE: tee, Check: hostcheck.Check{ID: "kvm", Found: "no /dev/kvm"}}
		}
	}
	for want, ready := range map[launch.TEE][]launch.TEE{
		launch.SNP: {launch.SNP}, launch.TDX: {launch.TDX, launch.SEV}, launch.CCA: {launch.CCA},
	} {
		if got, err := nodeHardware(with(ready...)); got != want || err != nil {
			t.Errorf("%v: %q, %v", ready, got, err)
		}
	}
	got, err := nodeHardware(with(launch.SEV, launch.SEVES, launch.SE, launch.TPMSim))
	if err == nil || got != "" || !strings.Contains(err.Error(), "snp lacks kvm (no /dev/kvm); tdx lacks kvm") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestHandlersOfHardware(t *testing.T) {
	for _, tee := range []string{"hardware", "snp", "tdx", "cca"} {
		c, err := ParseConfig([]byte("tee = \"" + tee + "\"\nplatform = \"/p\"\n"))
		if err != nil || c.Variant != "release" {
			t.Errorf("%s: %+v, %v", tee, c, err)
		}
	}
	for _, tee := range []string{"sev", "sev-es", "se", "sgx", "none"} {
		if _, err := ParseConfig([]byte("tee = \"" + tee + "\"\nplatform = \"/p\"\n")); err == nil {
			t.Errorf("%s was accepted, and its launch binds no initdata", tee)
		}
	}
}

// A pod for another kind of TEE gets an error here, and not a guest that halts.
func TestSealedFor(t *testing.T) {
	b := []byte("version = \"" + initdata.Version + "\"\nalgorithm = \"sha384\"\n[data]\n")
	if err := sealedFor(launch.TDX, b); err != nil {
		t.Error(err)
	}
	if err := sealedFor(launch.SNP, b); err == nil || !strings.Contains(err.Error(), "coffer seal --tee snp") {
		t.Errorf("%v", err)
	}
	if err := sealedFor(launch.SNP, []byte("x")); err == nil {
		t.Errorf("%v", err)
	}
}
