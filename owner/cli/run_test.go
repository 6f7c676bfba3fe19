package cli

import (
	"os"
	"path/filepath"
	"strings"
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

// Nothing but the user's own word leads to a simulation.
func TestChoiceOfTEE(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "platform.json")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		tee      string
		simulate bool
		platform string
		want     launch.TEE
		says     string
	}{
		"nothing":                    {platform: image, says: "no TEE chosen"},
		"auto":                       {tee: "auto", platform: image, says: "auto never simulates"},
		"auto without an image":      {tee: "auto", says: "auto never simulates"},
		"auto and simulate":          {tee: "auto", simulate: true, platform: image, want: launch.TPMSim, says: "chose tpm-sim"},
		"simulate":                   {simulate: true, platform: image, want: launch.TPMSim, says: "chose tpm-sim"},
		"simulate without an image":  {tee: "auto", simulate: true, platform: filepath.Join(dir, "none"), want: launch.SGXSim, says: "chose sgx-sim"},
		"a simulation":               {tee: "sgx-sim", want: launch.SGXSim},
		"a simulation, and simulate": {tee: "sgx-sim", simulate: true, says: "a choice already"},
		"hardware":                   {tee: "sgx", simulate: true, says: "coffer knows"},
	} {
		f := podFlags{tee: c.tee, simulate: c.simulate}
		f.opts.Platform = c.platform
		err := f.finish([]string{"pod.yaml"})
		switch {
		case (err == nil) != (c.want != ""):
			t.Errorf("%s: %v, TEE %q", name, err, f.opts.TEE)
		case err != nil && !strings.Contains(err.Error(), c.says):
			t.Errorf("%s: %v, want %q", name, err, c.says)
		case err == nil && (f.opts.TEE != c.want || !strings.Contains(f.chosen, c.says)):
			t.Errorf("%s: %q, %q", name, f.opts.TEE, f.chosen)
		}
	}
}
