package attester

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cofferproject/coffer/tee/attest"
	"github.com/cofferproject/coffer/tee/nvidia"
	"github.com/cofferproject/coffer/tee/nvidia/nvidiatest"
)

func sysfs(vendor, class string) fstest.MapFS {
	return fstest.MapFS{
		"bus/pci/devices/0000:01:00.0/vendor": {Data: []byte(vendor + "\n")}, "bus/pci/devices/0000:01:00.0/class": {Data: []byte(class + "\n")},
		"bus/pci/devices/0000:00:00.0/vendor": {Data: []byte("0x8086\n")}, "bus/pci/devices/0000:00:00.0/class": {Data: []byte("0x060000\n")},
	}
}

type collector func(nonce [32]byte) ([]byte, error)

func (c collector) Collect(_ context.Context, n [32]byte) ([]byte, error) { return c(n) }

func TestPresence(t *testing.T) {
	two := sysfs("0x10de", "0x030200")
	two["bus/pci/devices/0000:02:00.0/vendor"], two["bus/pci/devices/0000:02:00.0/class"] = &fstest.MapFile{Data: []byte("0x10de\n")}, &fstest.MapFile{Data: []byte("0x068000\n")}
	for _, c := range []struct {
		fs   fstest.MapFS
		want int
	}{{sysfs("0x10de", "0x030200"), 1}, {two, 2}, {sysfs("0x10de", "0x020000"), 0}, {sysfs("0x1002", "0x030000"), 0}, {fstest.MapFS{}, 0}} {
		if n, err := Sysfs(c.fs)(); err != nil || n != c.want {
			t.Errorf("%v: %d, %v, want %d", c.fs, n, err, c.want)
		}
	}
	if _, err := New(Sysfs(fstest.MapFS{}), collector(nil)); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("%v", err)
	}
	if _, err := New(Sysfs(sysfs("0x10de", "0x030200")), nil); err == nil {
		t.Error("no collector, and an attester")
	}
	hidden := sysfs("0x10de", "0x030200")
	delete(hidden, "bus/pci/devices/0000:01:00.0/class")
	if _, err := New(Sysfs(hidden), collector(nil)); err == nil || errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("a device whose class cannot be read: %v", err)
	}
}

func TestEvidence(t *testing.T) {
	dev := nvidiatest.NewVendor(t, "GH100", nil).NewDevice(t, "HOPPER")
	stale, devices := false, 1
	a, err := New(func() (int, error) { return devices, nil }, collector(func(n [32]byte) ([]byte, error) {
		if stale {
			n[0] ^= 1
		}
		return json.Marshal(nvidia.Evidence{Devices: []nvidia.Device{dev.Evidence(t, n[:])}})
	}))
	if err != nil {
		t.Fatal(err)
	}
	data := slices.Repeat([]byte{7}, 48)
	b, err := a.Evidence(t.Context(), data, nil)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := nvidia.Parse(b); err != nil || len(e.Devices) != 1 || e.Devices[0].UUID != dev.UUID {
		t.Errorf("%+v, %v", e, err)
	}
	devices = 2
	if _, err := a.Evidence(t.Context(), data, nil); err == nil || !strings.Contains(err.Error(), "of 1 devices, and the kernel sees 2") {
		t.Errorf("a device is left out: %v", err)
	}
	stale, devices = true, 1
	if _, err := a.Evidence(t.Context(), data, nil); err == nil || !strings.Contains(err.Error(), "another nonce") {
		t.Errorf("%v", err)
	}
}

func TestHelper(t *testing.T) {
	if _, err := (Helper{"helper"}).Collect(t.Context(), [32]byte{}); err == nil {
		t.Error("a relative path")
	}
	script := func(body string) Helper {
		p := filepath.Join(t.TempDir(), "helper")
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
			t.Fatal(err)
		}
		return Helper{p}
	}
	t.Setenv("SECRET", "leaked")
	b, err := script(`read n; echo "$n $SECRET"`).Collect(t.Context(), [32]byte{0xab})
	if want := "ab" + strings.Repeat("00", 31) + " \n"; err != nil || string(b) != want {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := script("echo no GPU >&2; exit 3").Collect(t.Context(), [32]byte{}); err == nil || !strings.Contains(err.Error(), "no GPU") {
		t.Errorf("%v", err)
	}
	if _, err := script("while :; do echo 0123456789012345678901234567890123456789; done").Collect(t.Context(), [32]byte{}); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%v", err)
	}
	if _, err := (Helper{"/nonexistent/helper"}).Collect(t.Context(), [32]byte{}); err == nil {
		t.Error("no helper, and evidence")
	}
}
