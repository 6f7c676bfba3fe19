package vmm

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/api/channel"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/simhw"
)

// GuestMAC is the address of the guest's network card under user-mode networking.
const GuestMAC = "52:54:00:12:34:56"

// NIC is a network card of the guest on a tap interface.
type NIC struct {
	FD  int    // the tap, opened with IFF_VNET_HDR
	MAC string // the address that the guest's card has
}

// DiskPath is a disk of the guest.
type DiskPath struct {
	FD    int
	Block bool // a block device of the host's, not a file
}

// MaxNICs is how many network cards a guest may have: the machine's free slots.
const MaxNICs = 16

// Paths names what the launcher prepared for one VM, as QEMU sees it. All of it
// is descriptors: the process can open no path of ours, but for the socket of the
// host's quote generation service.
type Paths struct {
	ROMs    []string // directories with the platform's ROMs, one for each -L of the platform
	Kernel  string   // /dev/fd/N; the image of a TEE that loads one
	Initrd  string   // /dev/fd/N
	Console int      // socket descriptors, already connected
	QMP     int
	Channel int
	TPM     int // swtpm's control channel; 0: no TPM
	// coffer-simhw's port in the guest and its own monitor; 0: no part of it.
	SimHW, SimQMP int
	// Descriptors of block device images, added as fd sets; 0: absent.
	Code, Vars, Initdata int
	KVM                  int
	Disks                []DiskPath // in the order of Spec.Disks
	// Taps says that NICs are the guest's whole network, none if empty; else the
	// guest has one card under user-mode networking.
	Taps     bool
	NICs     []NIC
	Hardware HardwarePaths
}

// Machine is what the launcher found out about QEMU and the host.
type Machine struct {
	QEMUMajor int
	KVM       bool
	TBSizeMiB int // translation cache under TCG; 0: DefaultTBSize
	Host      HostCPU
}

// String names the accelerator.
func (m Machine) String() string {
	if m.KVM {
		return "KVM"
	}
	return "TCG"
}

// DefaultTBSize is TCG's translation cache in MiB: docs/performance.md.
const DefaultTBSize = 128

// CommandLine gives QEMU's arguments, without the program's name. It is a pure
// function: the same inputs give the same machine and so the same measurement.
func CommandLine(p *platform.Platform, m Machine, spec *launch.Spec, paths Paths) []string {
	var a args
	a.add(romArgs(p.QEMU.ArgsPrefix, paths.ROMs)...)
	a.add("-name", "coffer,process=coffer-qemu")
	a.add("-nodefaults", "-no-user-config", "-no-reboot")
	a.add("-display", "none", "-vga", "none")
	a.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	a.add("-msg", "timestamp=off")
	if spec.TEE.Hardware() {
		a.hardware(m, spec, paths)
	} else {
		a.software(m, spec, paths)
	}

	a.add("-kernel", paths.Kernel)
	if paths.Initrd != "" {
		a.add("-initrd", paths.Initrd)
	}
	if !spec.TEE.LoadsImage() { // its image holds the command line
		a.add("-append", spec.Cmdline)
	}

	a.socket("qmp", paths.QMP)
	a.add("-mon", "chardev=qmp,mode=control")
	a.socket("console", paths.Console)
	a.add(consoleOf(spec.TEE)...)
	a.devices(busOf(spec.TEE), spec, paths)
	return a
}

// software is the machine of a VM that no hardware protects.
func (a *args) software(m Machine, spec *launch.Spec, paths Paths) {
	machine := "q35,smbus=off,sata=off,usb=off,vmport=off,i8042=off,dump-guest-core=off,mem-merge=off"
	if paths.Code != 0 {
		a.fdset(1, paths.Code)
		a.add("-blockdev", "driver=file,node-name=code,filename=/dev/fdset/1,read-only=on,locking=off")
		a.fdset(2, paths.Vars)
		a.add("-blockdev", "driver=file,node-name=vars,filename=/dev/fdset/2,locking=off")
		machine += ",pflash0=code,pflash1=vars"
	}
	a.add("-machine", machine)
	a.accel(m, paths)
	a.add("-cpu", cpuModel(m, spec)+physBits(m))
	a.add("-smp", strconv.Itoa(spec.VCPUs))
	a.add("-m", fmt.Sprintf("%dM", spec.MemoryMiB))
	a.add("-boot", "strict=on,menu=off")
	a.add(launch.MachineArgs...) // measured into PCR 0: no suspend
}

// devices are what the guest has beside the machine itself.
func (a *args) devices(b bus, spec *launch.Spec, paths Paths) {
	if paths.Channel != 0 {
		ports := 2
		if paths.SimHW != 0 {
			ports = 3
		}
		a.add("-device", b.device("virtio-serial", "id=serial", 1)+fmt.Sprintf(",max_ports=%d", ports))
		if paths.SimHW != 0 { // first, so that the guest knows of it before the agent's port
			a.socket("simhw", paths.SimHW)
			a.add("-device", "virtserialport,chardev=simhw,nr=2,name="+simhw.PortName)
			a.socket("simqmp", paths.SimQMP)
			a.add("-mon", "chardev=simqmp,mode=control")
		}
		a.socket("agent", paths.Channel)
		a.add("-device", "virtserialport,chardev=agent,nr=1,name="+channel.PortName)
		a.network(b, spec, paths)
		if !spec.TEE.Hardware() { // whose CPU has an instruction for it
			a.add("-object", "rng-builtin,id=rng")
			a.add("-device", b.device("virtio-rng", "rng=rng", 3))
		}
	}
	if paths.Initdata != 0 {
		a.fdset(3, paths.Initdata)
		a.add("-blockdev", "driver=file,node-name=initdata,filename=/dev/fdset/3,read-only=on,locking=off")
		a.add("-device", b.device("virtio-blk", "drive=initdata", 4)+",serial=initdata")
	}
	a.disks(b, spec, paths)
	if paths.TPM != 0 {
		a.socket("tpm", paths.TPM)
		a.add("-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm")
	}
	a.hostDevices(paths)
}

type args []string

func (a *args) add(s ...string) { *a = append(*a, s...) }

func (a *args) fdset(set, fd int) { a.add("-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, set)) }

func (a *args) socket(id string, fd int) {
	a.add("-chardev", fmt.Sprintf("socket,id=%s,fd=%d", id, fd))
}

func (a *args) accel(m Machine, paths Paths) {
	if m.KVM {
		a.kvm(paths, "")
		return
	}
	tb := m.TBSizeMiB
	if tb == 0 {
		tb = DefaultTBSize
	}
	a.add("-accel", fmt.Sprintf("tcg,thread=multi,tb-size=%d", tb))
}

func (a *args) kvm(paths Paths, more string) {
	a.fdset(4, paths.KVM)
	a.add("-accel", "kvm,device=/dev/fdset/4"+more)
}

// cpuModel gives the model where nothing asks for another one. Without erms and
// fsrm Linux clears and copies pages by words: emulation takes "rep stosb" a byte
// at a time.
func cpuModel(m Machine, spec *launch.Spec) string {
	switch {
	case spec.CPUModel != "" && !spec.TEE.Played(): // else the model that is measured, not the one that runs
		return spec.CPUModel
	case m.KVM:
		return "host"
	case m.QEMUMajor < 8:
		// The cmpxchg16b of QEMU 7's TCG corrupts the memory of Linux 6.12.
		return "max,-la57,-erms,-fsrm,-cx16"
	default:
		return "max,-la57,-erms,-fsrm"
	}
}

// physBits pins the width of addresses, which is measured into PCR 0.
func physBits(m Machine) string {
	s := fmt.Sprintf(",phys-bits=%d", launch.PhysBits)
	if m.KVM {
		s += ",host-phys-bits=off"
	}
	return s
}

// network gives the guest's cards. The first has the slot of the user-mode card, so
// that the kernel finds the devices of both in the same places.
func (a *args) network(b bus, spec *launch.Spec, paths Paths) {
	if !paths.Taps {
		a.add("-netdev", netdev(spec.Publish))
		a.add("-device", b.device("virtio-net", "netdev=net", 2)+",mac="+GuestMAC)
		return
	}
	for i, n := range paths.NICs {
		slot := 2
		if i > 0 {
			slot = 4 + i // 3 and 4 are taken
		}
		a.add("-netdev", fmt.Sprintf("tap,id=net%d,fd=%d,vhost=off", i, n.FD))
		a.add("-device", b.device("virtio-net", fmt.Sprintf("netdev=net%d", i), slot)+",mac="+n.MAC)
	}
}

// netdev is user-mode networking. The guest reaches what this process could
// reach, the host's loopback (as 10.0.2.2) included: that is how it finds a
// trustee and a registry on the same machine. From outside only Publish leads in.
func netdev(publish []launch.PortForward) string {
	var b strings.Builder
	b.WriteString("user,id=net,ipv6=off")
	for _, p := range publish {
		fmt.Fprintf(&b, ",hostfwd=%s:%s:%d-:%d", p.Protocol, hostIP(p), p.HostPort, p.GuestPort)
	}
	return b.String()
}

func hostIP(p launch.PortForward) string {
	if p.HostIP == "" {
		return "127.0.0.1"
	}
	return p.HostIP
}

func hostAddr(p launch.PortForward) string {
	return net.JoinHostPort(hostIP(p), strconv.Itoa(p.HostPort))
}

// romArgs replaces the directories of the platform's -L arguments.
func romArgs(prefix, roms []string) []string {
	out := make([]string, 0, len(prefix))
	for i, s := range prefix {
		if i > 0 && prefix[i-1] == "-L" && len(roms) > 0 {
			s, roms = roms[0], roms[1:]
		}
		out = append(out, s)
	}
	return out
}
