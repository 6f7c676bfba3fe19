// Package vmm is the sandbox.Driver that runs a pod in a local VM under QEMU
// (design.md section 1, "local VM").
//
// Trust zone: host. The guest, and a QEMU that a guest has taken over, are
// hostile to it: QEMU runs under a uid of its own with no capability, its
// seccomp filter on and nothing but descriptors that this package opened for
// it; what comes back (QMP, console, channel) is read bounded.
//
// Invariants:
//   - CommandLine is a pure function of its inputs; tee/*/measure predicts the
//     same launch, so the machine it describes has fixed slots and no option ROM.
//   - Hardware virtualisation is used only where a probe boot has worked.
//   - For the TEEs that coffer-simhw plays, it measures the running QEMU before
//     anybody hears that the VM is ready, and the VM ends with it.
//   - QEMU and swtpm have no file of the host open that is not in the LaunchSpec
//     or the platform, and no path through which to reach one.
package vmm
