package hostcheck

import (
	"strings"
	"testing"
)

func TestDeviceMiB(t *testing.T) {
	m := newMachine(t, "amd64")
	file := "sys/bus/pci/devices/" + gpu + "/resource"
	rom := strings.Repeat("0x0 0x0 0x0\n", 6) + "0x0000000000000000 0xffffffffffffffff 0x0000000000100000\n" // the seventh is no region
	for text, want := range map[string]int{
		"0x00000000c0000000 0x00000000c0ffffff 0x0000000000040200\n":                                                                        0, // below 4 GiB
		"0x0000002000000000 0x0000003fffffffff 0x000000000014220c\n":                                                                        128 << 10,
		"0x0000002000000000 0x0000003fffffffff 0x000000000014220c\n0x0 0x0 0x0\n0x0000004000000000 0x0000004001ffffff 0x000000000014220c\n": 128<<10 + 32,
		rom: 0,
	} {
		m.write(file, text)
		if got, err := m.DeviceMiB(gpu); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, bad := range []string{"no region\n", "0x2 0x1 0x0\n", "0x0 0xffffffffffff0000 0x100000\n", strings.Repeat("0x0 0x0 0x0\n", maxSysfs)} {
		m.write(file, bad)
		if got, err := m.DeviceMiB(gpu); err == nil {
			t.Errorf("%.40q: %d", bad, got)
		}
	}
}
