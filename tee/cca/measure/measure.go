package measure

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
)

// Memory map of QEMU's machine "virt" with direct kernel boot.
const (
	memoryBase   = 0x40000000
	initrdOffset = 128 << 20 // or half of the memory, if that is less
	dtbAlign     = 2 << 20
	maxDTB       = 1 << 20
)

// Host is what the machine's CPU and monitor offer a realm; the measurement
// depends on it, and no LaunchSpec says it.
type Host struct {
	Params
	// DTB is the device tree that QEMU hands to the kernel (`-machine dumpdtb=`,
	// or the one given with -dtb). QEMU's own depends on its version.
	DTB []byte
}

// SimulatedHost is the host that the simulator plays.
var SimulatedHost = Params{IPABits: 41, Breakpoints: 6, Watchpoints: 6, Hash: SHA512}

// Compute gives the RIM of a launch. For launch.CCASim the host is nil: the
// simulator's host and device tree are known. For launch.CCA it must be given.
func Compute(spec *launch.Spec, host *Host) ([]byte, error) {
	if err := spec.Validate(); err != nil {
		return nil, fmt.Errorf("computing the realm measurement: %w", err)
	}
	kernel, err := spec.Kernel.Read(launch.MaxFile)
	if err != nil {
		return nil, fmt.Errorf("computing the realm measurement: %w", err)
	}
	var initrd []byte
	if spec.Initrd.Path != "" {
		if initrd, err = spec.Initrd.Read(launch.MaxFile); err != nil {
			return nil, fmt.Errorf("computing the realm measurement: %w", err)
		}
	}
	memory := uint64(spec.MemoryMiB) << 20
	switch {
	case spec.TEE == launch.CCASim && host == nil:
		l, err := place(kernel, initrd, memory)
		if err != nil {
			return nil, fmt.Errorf("computing the realm measurement: %w", err)
		}
		return l.rim(SimulatedHost, simulatedTree(l, spec.Cmdline, spec.VCPUs))
	case spec.TEE == launch.CCA && host != nil:
		if len(host.DTB) == 0 || len(host.DTB) > maxDTB {
			return nil, fmt.Errorf("computing the realm measurement: device tree of %d bytes, at least 1 and at most %d", len(host.DTB), maxDTB)
		}
		if _, ok := arm64Offset(kernel); !ok {
			return nil, errors.New("computing the realm measurement: the kernel is no arm64 Image")
		}
		l, err := place(kernel, initrd, memory)
		if err != nil {
			return nil, fmt.Errorf("computing the realm measurement: %w", err)
		}
		return l.rim(host.Params, host.DTB)
	case spec.TEE == launch.CCA:
		return nil, errors.New("computing the realm measurement: the host's capabilities and the device tree must be given")
	}
	return nil, fmt.Errorf("computing the realm measurement: %s is not measured so", spec.TEE)
}

// layout is where direct boot puts things.
type layout struct {
	kernel, initrd            []byte
	memory                    uint64
	kernelAt, initrdAt, dtbAt uint64
}

// arm64Offset reads an arm64 Image's header: offset from the start of memory.
func arm64Offset(kernel []byte) (offset uint64, ok bool) {
	if len(kernel) < 64 || string(kernel[56:60]) != "ARM\x64" {
		return 0, false
	}
	return binary.LittleEndian.Uint64(kernel[8:]), true
}

func place(kernel, initrd []byte, memory uint64) (*layout, error) {
	l := &layout{kernel: kernel, initrd: initrd, memory: memory, kernelAt: memoryBase}
	size := uint64(len(kernel))
	if off, ok := arm64Offset(kernel); ok {
		if off > memory {
			return nil, errors.New("the kernel asks for a place outside the memory")
		}
		l.kernelAt += off
		// The image's own size counts what it needs behind the file, too.
		size = max(size, binary.LittleEndian.Uint64(kernel[16:]))
	}
	if size > memory {
		return nil, errors.New("the kernel is larger than the memory")
	}
	l.initrdAt = alignUp(max(memoryBase+min(memory/2, initrdOffset), l.kernelAt+size), Granule)
	l.dtbAt = alignUp(l.initrdAt+uint64(len(initrd)), dtbAlign)
	if l.dtbAt+dtbAlign > memoryBase+memory {
		return nil, fmt.Errorf("kernel and initrd do not fit into %d bytes of memory", memory)
	}
	return l, nil
}

func alignUp(v, to uint64) uint64 { return (v + to - 1) / to * to }

// rim makes the steps in the order of the machine: memory, then content by
// ascending address, then the vCPU that starts.
func (l *layout) rim(p Params, dtb []byte) ([]byte, error) {
	r, err := New(p)
	if err != nil {
		return nil, err
	}
	if err := r.RIPAS(memoryBase, memoryBase+l.memory); err != nil {
		return nil, err
	}
	for _, part := range []struct {
		at uint64
		b  []byte
	}{{l.kernelAt, l.kernel}, {l.initrdAt, l.initrd}, {l.dtbAt, dtb}} {
		if len(part.b) == 0 {
			continue
		}
		if err := r.Data(part.at, part.b); err != nil {
			return nil, err
		}
	}
	r.REC(l.kernelAt, [8]uint64{l.dtbAt})
	return r.Value(), nil
}
