// Package simhw plays TEE hardware for one simulated sandbox, in a process of its
// own beside QEMU. What hardware would measure it takes from the running QEMU:
// kernel, initrd, command line, memory, vCPU count and initdata, by QMP and from
// the files behind QEMU's descriptors. What emulation cannot run (the TEE's
// firmware, the vCPU model) comes from the launch spec, and the simulation note
// says so by name.
//
// What it says is what hardware would have measured of these inputs, not what
// ran: QEMU could run other code than it was given.
//
// It begins as root, where its launcher is: the files behind QEMU's descriptors
// and the keys of the simulated vendors are root's. Before it reads a byte of the
// guest's it goes on under a uid of its own, with the guest's port as its only
// way to anything.
//
// Invariants: nothing of what `coffer measure` computed takes part; a device that
// QEMU does not have is not there; requests of the guest are bounded, and what
// breaks the protocol ends the connection.
//
// Trust zone: host. Simulation protects nothing.
package simhw
