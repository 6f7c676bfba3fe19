package vmm

import (
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
)

// bus is how virtio devices are attached.
type bus struct {
	suffix string // of the device's name
	slot   string // format of the fixed slot
	more   string // what every device has
}

// busOf gives the bus of a TEE's machine. No device has an option ROM, and none but
// the interface of virtio 1.0. Where the hardware protects the guest's memory, the
// devices reach only what the guest shares with them (iommu_platform): QEMU would
// refuse to start the guest's drivers without it.
func busOf(t launch.TEE) bus {
	switch {
	case t == launch.SE:
		return bus{"-ccw", "devno=fe.0.%04x", "iommu_platform=on"}
	case t.Hardware():
		return bus{"-pci", "addr=0x%x", "romfile=,disable-legacy=on,iommu_platform=on"}
	}
	return bus{"-pci", "addr=0x%x", "romfile=,disable-legacy=on"}
}

func (b bus) device(name, id string, slot int) string {
	return name + b.suffix + "," + id + "," + fmt.Sprintf(b.slot, slot) + "," + b.more
}

// function is one of several devices in a slot.
func (b bus) function(name, id string, slot, number int) string {
	if b.suffix == "-ccw" {
		return b.device(name, id, slot<<4+number)
	}
	s := name + b.suffix + "," + id + "," + fmt.Sprintf(b.slot, slot) + fmt.Sprintf(".%d", number) + "," + b.more
	if number == 0 {
		s += ",multifunction=on"
	}
	return s
}

// consoleOf connects the guest's first console to the socket "console".
func consoleOf(t launch.TEE) []string {
	if t == launch.SE {
		return []string{"-device", "sclpconsole,chardev=console"}
	}
	return []string{"-serial", "chardev:console"}
}
