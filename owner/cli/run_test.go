package cli

import (
	"testing"

	"github.com/cofferproject/coffer/api/launch"
)

func TestSimDevices(t *testing.T) {
	if err := checkSimDevices(launch.SNPSim, []string{"nvidia"}); err != nil {
		t.Error(err)
	}
	if err := checkSimDevices(launch.TPMSim, nil); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		tee     launch.TEE
		devices []string
	}{
		"nobody plays beside swtpm": {launch.TPMSim, []string{"nvidia"}}, "unknown": {launch.SNPSim, []string{"toaster"}},
		"twice": {launch.SNPSim, []string{"nvidia", "nvidia"}}, "hardware": {launch.SNP, []string{"nvidia"}},
	} {
		if err := checkSimDevices(c.tee, c.devices); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
