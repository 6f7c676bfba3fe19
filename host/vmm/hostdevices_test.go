package vmm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/host/hostcheck"
	"github.com/cofferproject/coffer/host/supervise"
)

// vfioMachine is a machine with a GPU that VFIO has and a card that a driver has.
func vfioMachine(t *testing.T) *hostcheck.Host {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"dev/iommu": "", "dev/vfio/devices/vfio3": "",
		"sys/bus/pci/devices/0000:65:00.0/vfio-dev/vfio3/dev": "237:3\n",
		"sys/bus/pci/devices/0000:65:00.0/resource": "0x00000000c0000000 0x00000000c0ffffff 0x0000000000040200\n0x0000200000000000 0x00002fffffffffff 0x000000000014220c\n" +
			"0x0000000000000000 0x0000000000000000 0x0000000000000000\n0x0000300000000000 0x0000300001ffffff 0x000000000014220c\n",
		"sys/bus/pci/devices/0000:66:00.0/resource": "0x0000000000000000 0x0000000000000000 0x0000000000000000\n",
	} {
		p := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return &hostcheck.Host{Root: root}
}

// TestHostDevices opens what VFIO has, in the order of the spec, and nothing else.
func TestHostDevices(t *testing.T) {
	m := vfioMachine(t)
	in := new(inputs)
	defer in.close()
	if err := in.hostDevices([]string{"0000:65:00.0"}, m); err != nil {
		t.Fatal(err)
	}
	p := in.paths.Hardware
	if p.IOMMU != supervise.FD(0) || !slices.Equal(p.Devices, []int{supervise.FD(1)}) || !slices.Equal(p.DevicesMiB, []int{1<<24 + 32}) {
		t.Errorf("%+v", p)
	}
	for i, want := range []string{"dev/iommu", "dev/vfio/devices/vfio3"} {
		if !strings.HasSuffix(in.files[i].Name(), want) {
			t.Errorf("descriptor %d is %s", supervise.FD(i), in.files[i].Name())
		}
	}
	second := new(inputs)
	defer second.close()
	if err := second.hostDevices([]string{"0000:65:00.0"}, m); err == nil || !strings.Contains(err.Error(), "another VM has it") {
		t.Errorf("a second VM: %v", err)
	}
	for _, a := range []string{"0000:66:00.0", "0000:67:00.0"} {
		if err := new(inputs).hostDevices([]string{a}, m); err == nil || !strings.Contains(err.Error(), "host device "+a) {
			t.Errorf("%s: %v", a, err)
		}
	}
	none := new(inputs)
	if err := none.hostDevices(nil, &hostcheck.Host{Root: "/nonexistent"}); err != nil || len(none.files) > 0 {
		t.Errorf("%v, %v", none.files, err)
	}
}

func TestMMIOWindow(t *testing.T) {
	const gib = 1 << 10
	for _, c := range []struct {
		devices []int
		want    int
	}{
		{[]int{0}, 256 * gib},
		{[]int{128*gib + 32}, 256 * gib},
		{[]int{16, 16, 16}, 1024 * gib},
		{[]int{256*gib + 32}, 512 * gib}, // with regions of 256 GiB and of 32 MiB
		{[]int{256*gib + 32, 16}, 1024 * gib},
	} {
		if got := mmioWindow(c.devices); got != c.want {
			t.Errorf("%v: %d, want %d", c.devices, got, c.want)
		}
	}
}
