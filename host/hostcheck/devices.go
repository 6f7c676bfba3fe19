package hostcheck

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// hostDevice checks that a PCI device, and all that the IOMMU cannot tell apart from
// it, is VFIO's and not a driver's of the host.
func (h *Host) hostDevice(r *Report, address string) {
	fix := "bind it, and all of its IOMMU group, to vfio-pci (driver_override), with the IOMMU on"
	if !r.add(h.exists("host-device", "the device "+address+" is there", "sys/bus/pci/devices/"+address, "take the device off the node's CDI specification, or put it back")) {
		return
	}
	c := Check{ID: "host-device-vfio", What: "VFIO has the device " + address, Fix: fix + "; the kernel needs CONFIG_VFIO_DEVICE_CDEV (Linux 6.6 or newer)"}
	path, err := h.VFIODevice(address)
	if err == nil {
		_, err = os.Stat(h.path(path))
	}
	if err != nil {
		c.Found = fmt.Sprintf("%s; its driver is %s", reason(err), h.driverOf(address))
		r.add(c)
		return
	}
	c.OK, c.Found = true, path
	r.add(c)
	r.add(h.groupOf(address, fix))
}

// groupOf checks the rest of a device's IOMMU group: with a driver of the host on one
// of them, the kernel gives none of them away.
func (h *Host) groupOf(address, fix string) Check {
	c := Check{ID: "host-device-group", What: "no driver of the host has a device beside " + address, OK: true, Found: "none", Fix: fix}
	entries, err := os.ReadDir(h.path("sys/bus/pci/devices/" + address + "/iommu_group/devices"))
	if err != nil {
		c.OK, c.Found = false, reason(err)
		return c
	}
	for _, e := range entries {
		d := h.driverOf(e.Name())
		if d == noDriver || d == "pcieport" || strings.Contains(d, "vfio") || e.Name() == address {
			continue
		}
		c.OK, c.Found = false, fmt.Sprintf("%.40s has %s", e.Name(), d)
	}
	return c
}

const noDriver = "none"

func (h *Host) driverOf(address string) string {
	to, err := os.Readlink(h.path("sys/bus/pci/devices/" + filepath.Base(address) + "/driver"))
	if err != nil {
		return noDriver
	}
	return filepath.Base(to)
}

// VFIODevice gives the path of the VFIO device that stands for a PCI device.
func (h *Host) VFIODevice(address string) (string, error) {
	entries, err := os.ReadDir(h.path("sys/bus/pci/devices/" + filepath.Base(address) + "/vfio-dev"))
	if err != nil {
		return "", err
	}
	if len(entries) != 1 || !strings.HasPrefix(entries[0].Name(), "vfio") {
		return "", errors.New("the kernel names no VFIO device for it")
	}
	return "/dev/vfio/devices/" + entries[0].Name(), nil
}

// DeviceMiB gives how much of the address space above 4 GiB a PCI device takes, in
// MiB: its 64-bit memory regions, all together.
func (h *Host) DeviceMiB(address string) (int, error) {
	b, err := h.read("sys/bus/pci/devices/"+filepath.Base(address)+"/resource", maxSysfs)
	if err != nil {
		return 0, err
	}
	const regions, memory64 = 6, 0x00100000 // IORESOURCE_MEM_64
	var sum uint64
	n := 0
	for line := range strings.Lines(string(b)) {
		var first, last, flags uint64
		if _, err := fmt.Sscanf(line, "0x%x 0x%x 0x%x", &first, &last, &flags); err != nil || last < first {
			return 0, fmt.Errorf("the memory regions of %s: %.80q is none", address, line)
		}
		if flags&memory64 != 0 {
			sum += last - first + 1
		}
		if n++; n == regions {
			break
		}
	}
	const most = 1 << 46 // bytes: more than a guest's addresses have
	if sum > most {
		return 0, fmt.Errorf("the memory regions of %s: %d bytes", address, sum)
	}
	return int((sum + 1<<20 - 1) >> 20), nil
}
