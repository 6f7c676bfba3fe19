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
	for _, c := range []struct {
		fs   fstest.MapFS
		want bool
	}{{sysfs("0x10de", "0x030200"), true}, {sysfs("0x10de", "0x068000"), true}, {sysfs("0x10de", "0x020000"), false}, {sysfs("0x1002", "0x030000"), false}, {fstest.MapFS{}, false}} {
		if Present(c.fs) != c.want {
			t.Errorf("%v: not %t", c.fs, c.want)
		}
	}
	if _, err := New(fstest.MapFS{}, collector(nil)); !errors.Is(err, attest.ErrNotPresent) {
		t.Errorf("%v", err)
	}
	if _, err := New(sysfs("0x10de", "0x030200"), nil); err == nil {
		t.Error("no collector, and an attester")
	}
}

func TestEvidence(t *testing.T) {
	dev := nvidiatest.NewVendor(t, "GH100", nil).NewDevice(t, "HOPPER")
	stale := false
	a, err := New(sysfs("0x10de", "0x030200"), collector(func(n [32]byte) ([]byte, error) {
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
	stale = true
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
