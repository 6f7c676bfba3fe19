package boot

import (
	"os"
	"path/filepath"
	"testing"
)

func TestProbeTPM(t *testing.T) {
	const bind = "sys/bus/acpi/drivers/tpm_crb/bind"
	tree := func(paths ...string) string {
		root := t.TempDir()
		for _, p := range append(paths, "sys/bus/acpi/drivers/tpm_crb") {
			if err := os.MkdirAll(filepath.Join(root, p), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(root, bind), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return root
	}
	for name, c := range map[string]struct {
		root, want string
	}{
		"the driver gave up":  {tree("sys/bus/acpi/devices/MSFT0101:00"), "MSFT0101:00"},
		"it has its driver":   {tree("sys/bus/acpi/devices/MSFT0101:00/driver"), ""},
		"it is there":         {tree("sys/bus/acpi/devices/MSFT0101:00", "dev/tpm0"), ""},
		"a machine without":   {tree("sys/bus/acpi/devices/PNP0501:00"), ""},
		"a machine of no one": {t.TempDir(), ""},
	} {
		if err := probeTPM(c.root, 3, 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if b, _ := os.ReadFile(filepath.Join(c.root, bind)); string(b) != c.want {
			t.Errorf("%s: %q, want %q", name, b, c.want)
		}
	}
	// A driver that never gets an answer, as a folder in the file's place never does.
	root := tree("sys/bus/acpi/devices/MSFT0101:00")
	if err := os.Remove(filepath.Join(root, bind)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, bind), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := probeTPM(root, 3, 0); err == nil {
		t.Error("a TPM that does not answer was passed over")
	}
}
