package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/host/hostcheck"
)

// cpuModelRE keeps a model from being more than a name: what follows a comma would
// be switches of the CPU that no measurement was computed with.
var cpuModelRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$`)

// checkHardware refuses what no hardware TEE is launched with, whatever machine it is.
func checkHardware(spec *launch.Spec) error {
	p := spec.SNP
	switch {
	case spec.Firmware.Path != "" || spec.VarsFile.Path != "":
		return fmt.Errorf("launch spec: firmware, vars: %s starts from tee_firmware alone, and keeps no variables", spec.TEE)
	case spec.TEE.Firmware() != "" && spec.TEEFirmware.Path == "":
		return fmt.Errorf("launch spec: tee_firmware: missing, and %s starts from it", spec.TEE)
	case spec.TEE.Firmware() == "" && spec.TEEFirmware.Path != "":
		return fmt.Errorf("launch spec: tee_firmware: %s has none", spec.TEE)
	case spec.CPUModel != "" && !spec.TEE.SEVFamily():
		return fmt.Errorf("launch spec: cpu_model: %s gives its guests the host's", spec.TEE)
	case spec.CPUModel != "" && !cpuModelRE.MatchString(spec.CPUModel):
		return fmt.Errorf("launch spec: cpu_model: %.64q is no name of a model", spec.CPUModel)
	case spec.Initdata != nil && spec.TEE.BindSize() == 0:
		return fmt.Errorf("launch spec: initdata: a launch of %s binds none, so that the host could put any other in its place", spec.TEE)
	case p != nil && !spec.TEE.SEVFamily():
		return fmt.Errorf("launch spec: snp: %s takes none of it", spec.TEE)
	case p != nil && p.VMM != "" && p.VMM != "qemu":
		return fmt.Errorf("launch spec: snp: vmm: %.20q is not who launches here", p.VMM)
	case p != nil && p.Features != 0 && (p.Features != launch.SNPActive || spec.TEE != launch.SNP):
		return fmt.Errorf("launch spec: snp: features %#x: QEMU launches %s with its default alone", p.Features, spec.TEE)
	case spec.TEE.SEVFamily() && !policyFits(spec.TEE, spec.PolicyOf()):
		return fmt.Errorf("launch spec: snp: policy %#x is none of %s", spec.PolicyOf(), spec.TEE)
	}
	return nil
}

// policyFits reports whether a policy is of the TEE that the spec names: the bit
// that asks for encrypted state is all that tells SEV-ES from SEV on a command line,
// and bit 17 of SNP's is always one (SEV API, SNP firmware ABI).
func policyFits(t launch.TEE, policy uint64) bool {
	const encryptedState, alwaysOne = 1 << 2, 1 << 17
	switch t {
	case launch.SEV:
		return policy < 1<<32 && policy&encryptedState == 0
	case launch.SEVES:
		return policy < 1<<32 && policy&encryptedState != 0
	}
	return policy&alwaysOne != 0
}

// hardwareMachine checks that the host has all that the TEE needs.
func (d *Driver) hardwareMachine(ctx context.Context, spec *launch.Spec) (Machine, error) {
	h := hostcheck.This(d.platform.QEMU.Path, d.opt.QuoteSocket)
	needs := hostcheck.Needs{Firmware: spec.TEEFirmware.Path, HostDevices: spec.HostDevices}
	if err := h.Inspect(ctx, spec.TEE, needs).Err(); err != nil {
		return Machine{}, err
	}
	major, err := qemuMajor(ctx, d.platform)
	if err != nil {
		return Machine{}, err
	}
	c := h.CPU()
	return Machine{QEMUMajor: major, KVM: true, Host: HostCPU{CBit: c.CBit, Reduced: c.Reduced, PhysBits: c.PhysBits}}, nil
}

// hardware opens what only a TEE's launch has, and computes what it binds.
func (in *inputs) hardware(spec *launch.Spec) error {
	if spec.TEEFirmware.Path != "" {
		f, err := openLaunched(in.digests, "TEE's firmware", spec.TEEFirmware)
		if err != nil {
			return err
		}
		in.paths.Hardware.Firmware = in.path(f)
	}
	if err := in.ownerFiles(spec.SNP); err != nil {
		return err
	}
	var err error
	in.paths.Hardware.Bind, err = Bind(spec)
	return err
}

// hardwareDevices opens the host's devices for a QEMU that runs under uid.
func (in *inputs) hardwareDevices(spec *launch.Spec, quoteSocket string, uid int) error {
	if spec.TEE == launch.TDX {
		in.paths.Hardware.QuoteSocket = quoteSocket
	}
	if spec.TEE.SEVFamily() {
		f, err := openDeviceFor("/dev/sev", uid)
		if err != nil {
			return err
		}
		in.paths.Hardware.SEV = in.path(f)
	}
	return in.hostDevices(spec.HostDevices, hostcheck.This("", ""))
}

const iommuDevice = "/dev/iommu"

// hostDevices opens PCI devices of the host. The descriptors are all that QEMU gets:
// it needs no right to the nodes.
func (in *inputs) hostDevices(addresses []string, h *hostcheck.Host) error {
	if len(addresses) == 0 {
		return nil
	}
	iommu, err := os.OpenFile(filepath.Join(h.Root, iommuDevice), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("giving the VM host devices: %w", err)
	}
	in.paths.Hardware.IOMMU = in.add(iommu)
	for _, a := range addresses {
		mib, err := h.DeviceMiB(a)
		if err != nil {
			return fmt.Errorf("giving the VM the host device %s: %w", a, err)
		}
		node, err := h.VFIODevice(a)
		if err != nil {
			return fmt.Errorf("giving the VM the host device %s: %w", a, err)
		}
		f, err := os.OpenFile(filepath.Join(h.Root, node), os.O_RDWR, 0)
		if err == nil {
			// The kernel lets several open it, and refuses the second one's use from within
			// QEMU. The lock goes with QEMU's descriptor.
			if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
				_ = f.Close()
			}
		}
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another VM has it")
		}
		if err != nil {
			return fmt.Errorf("giving the VM the host device %s: %w", a, err)
		}
		in.paths.Hardware.Devices = append(in.paths.Hardware.Devices, in.add(f))
		in.paths.Hardware.DevicesMiB = append(in.paths.Hardware.DevicesMiB, mib)
	}
	return nil
}

// lockedMiB is how much memory QEMU may lock: devices reach all of the guest's, and
// room for the firmware's and for what they have of their own.
func lockedMiB(spec *launch.Spec) int {
	const beside = 1024
	if len(spec.HostDevices) == 0 {
		return 0
	}
	return spec.MemoryMiB + beside
}

// openDeviceFor opens a character device so that a process under uid can open it
// anew through its descriptor, which QEMU does with the secure processor's: the
// descriptor is of a second node of the same device, owned by uid, which has no name
// any more when this returns. Nobody else gets at it.
func openDeviceFor(path string, uid int) (*os.File, error) {
	if uid == 0 { // the caller's own
		return os.OpenFile(path, os.O_RDWR, 0)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return nil, fmt.Errorf("opening %s: it is no character device", path)
	}
	dir, err := os.MkdirTemp("/dev", ".coffer-") // other file systems may forbid devices
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	defer os.RemoveAll(dir)
	node := dir + "/node"
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(st.Rdev)); err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	if err := os.Chown(node, uid, uid); err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	return os.OpenFile(node, os.O_RDWR, 0)
}
