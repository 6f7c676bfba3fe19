package boot

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// The files are as Linux 6.12 shows them.
func TestTEEDrivers(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"nothing", map[string]string{"proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu vme sev_es not_tdx_guest\n", "sys/bus/virtio/devices/virtio0/device": "0x0002\n"}, nil},
		{"no files", nil, nil},
		{"SNP", map[string]string{"sys/bus/platform/devices/sev-guest/uevent": ""}, []string{"sev_guest"}},
		{"TDX", map[string]string{"proc/cpuinfo": "flags\t\t: fpu tdx_guest vme\n"}, []string{"tdx_guest"}},
		{"Nitro", map[string]string{"sys/bus/virtio/devices/virtio0/device": "0x0002\n", "sys/bus/virtio/devices/virtio3/device": "0x0021\n"}, []string{"nsm"}},
	} {
		root := t.TempDir()
		for name, content := range c.files {
			p := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := teeDrivers(root); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestDriversIn(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"order", "order.tdx_guest", "order.nsm", "nsm.ko"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := driversIn(dir); !slices.Equal(got, []string{"nsm", "tdx_guest"}) {
		t.Errorf("%v", got)
	}
}
