package hostcheck

import (
	"context"
	"fmt"
	"slices"

	"github.com/cofferproject/coffer/api/launch"
)

// Check is one thing that a TEE needs.
type Check struct {
	ID    string `json:"id"`    // stable: "kvm-device"
	What  string `json:"what"`  // for people: "/dev/kvm can be opened"
	OK    bool   `json:"ok"`    //
	Found string `json:"found"` // what is there instead, or what is there
	Fix   string `json:"fix,omitempty"`
}

// Report is what one TEE needs on this machine, in the order in which it should be
// mended: nothing is looked at of a machine of another kind.
type Report struct {
	TEE    launch.TEE `json:"tee"`
	Ready  bool       `json:"ready"`
	Checks []Check    `json:"checks"`
}

// First gives the first check that failed; nil: none.
func (r *Report) First() *Check {
	for i := range r.Checks {
		if !r.Checks[i].OK {
			return &r.Checks[i]
		}
	}
	return nil
}

// NotReadyError is why a TEE cannot be launched here.
type NotReadyError struct {
	TEE   launch.TEE
	Check Check
}

func (e *NotReadyError) Error() string {
	return fmt.Sprintf("this machine cannot run %s (%s): %s: %s; %s", e.TEE, e.Check.ID, e.Check.What, e.Check.Found, e.Check.Fix)
}

// Err gives the first failure as an error; nil: the TEE is ready.
func (r *Report) Err() error {
	if c := r.First(); c != nil {
		return &NotReadyError{r.TEE, *c}
	}
	return nil
}

// Needs are what a launch needs beside the TEE itself.
type Needs struct {
	// Firmware that the launch starts from; "": that of no launch, which is missing
	// for a TEE that has firmware.
	Firmware string
	// HostDevices are PCI addresses of devices that the VM is given.
	HostDevices []string
}

// architecture is the machine that a TEE is a part of.
func architecture(t launch.TEE) (goarch, machine string) {
	switch t {
	case launch.SE:
		return "s390x", "s390-ccw-virtio"
	case launch.CCA:
		return "arm64", "virt"
	}
	return "amd64", "q35"
}

// Object is QEMU's object that stands for a TEE.
func Object(t launch.TEE) string {
	switch t {
	case launch.SNP:
		return "sev-snp-guest"
	case launch.SEV, launch.SEVES:
		return "sev-guest"
	case launch.TDX:
		return "tdx-guest"
	case launch.CCA:
		return "rme-guest"
	case launch.SE:
		return "s390-pv-guest"
	}
	return ""
}

// Inspect looks at all that a hardware TEE needs. A machine of another architecture
// is one finding.
func (h *Host) Inspect(ctx context.Context, tee launch.TEE, needs Needs) *Report {
	r := &Report{TEE: tee}
	arch, machine := architecture(tee)
	if !r.add(Check{ID: "architecture", What: "the machine is " + arch, OK: h.Arch == arch, Found: h.Arch, Fix: "run it on a machine that has this TEE"}) {
		return r
	}
	if tee == launch.SGX { // a process: neither KVM nor QEMU
		h.sgx(r)
		r.Ready = r.First() == nil
		return r
	}
	r.add(h.kvmDevice())
	switch tee {
	case launch.SNP, launch.SEV, launch.SEVES:
		h.sev(r, tee)
	case launch.TDX:
		h.tdx(r)
	case launch.SE:
		r.add(h.fileSays("ultravisor", "the firmware offers Secure Execution to this kernel", "sys/firmware/uv/prot_virt_host", "start the host's kernel with prot_virt=1, on an IBM z15 or newer with feature code 115"))
		r.add(h.extension("kvm-protected", "KVM starts protected guests", capS390Protected, 0, "use a kernel with KVM_CAP_S390_PROTECTED (5.7 or newer)"))
	case launch.CCA:
		r.add(h.exists("realm-management", "the kernel speaks to a realm management monitor", "sys/module/kvm/parameters/rme", "no released kernel has it: use one with Arm's patches for the host side of CCA, on firmware with an RMM"))
	}
	if tee.Firmware() != "" {
		r.add(h.firmware(tee, needs.Firmware))
	}
	h.qemu(ctx, r, tee, machine)
	if len(needs.HostDevices) > 0 {
		r.add(h.exists("iommufd", "host devices can be given to a VM by descriptor", "dev/iommu", "load the module iommufd (Linux 6.6 or newer) and turn the IOMMU on"))
	}
	for _, a := range needs.HostDevices {
		h.hostDevice(r, a)
	}
	r.Ready = r.First() == nil
	return r
}

// add adds a check, without a fix where there is nothing to mend.
func (r *Report) add(c Check) bool {
	if c.OK {
		c.Fix = ""
	}
	r.Checks = append(r.Checks, c)
	return c.OK
}

// TEEs lists what Inspect knows: the hardware that a VM is launched on, and SGX,
// where a machine can be ready and Coffer launches nothing yet.
func TEEs() []launch.TEE { return append(slices.Clone(launch.HardwareTEEs), launch.SGX) }

// All inspects every TEE of TEEs with the firmware that firmware names.
func (h *Host) All(ctx context.Context, firmware func(launch.TEE) string) []*Report {
	var out []*Report
	for _, t := range TEEs() {
		out = append(out, h.Inspect(ctx, t, Needs{Firmware: firmware(t)}))
	}
	return out
}

func (h *Host) qemu(ctx context.Context, r *Report, tee launch.TEE, machine string) {
	q, err := h.QEMU(ctx)
	if err != nil {
		r.add(Check{ID: "qemu", What: "QEMU starts", Found: err.Error(), Fix: "coffer guest build gets the one of the platform"})
		return
	}
	r.add(Check{
		ID: "qemu-machine", What: "QEMU has the machine " + machine, OK: slices.Contains(q.Machines, machine),
		Found: q.Version, Fix: "the platform's QEMU is for another architecture: name one for this TEE",
	})
	fix := "the platform's QEMU is too old for this TEE"
	switch tee {
	case launch.TDX:
		fix += ": tdx-guest came with QEMU 10.1, and the pinned one is 10.0"
	case launch.CCA:
		fix = "no released QEMU has it: use one with Arm's patches for CCA"
	}
	r.add(Check{ID: "qemu-object", What: "QEMU has the object " + Object(tee), OK: slices.Contains(q.Objects, Object(tee)), Found: q.Version, Fix: fix})
}
