package container

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Devices are allowed in cgroup v2 by a small BPF program that the kernel runs
// at each open and mknod. It is assembled here: what varies is the block devices.

// device is a character device a container may use; minor < 0 means every minor.
type device struct{ major, minor int32 }

var allowedDevices = []device{
	{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null zero full random urandom
	{5, 0}, {5, 2}, // tty ptmx
	{136, -1}, // pseudo-terminals
}

// Kernel interface numbers (bpf(2), linux/bpf.h).
const (
	bpfProgLoad         = 5
	bpfProgAttach       = 8
	progTypeCgroupDev   = 15
	attachCgroupDevice  = 6
	accessMknod         = 1
	accessWrite         = 4
	deviceTypeCharacter = 2
)

// instruction encodes one eBPF instruction.
func instruction(code uint8, dst, src uint8, off int16, imm int32) []byte {
	b := []byte{code, dst | src<<4}
	b = binary.LittleEndian.AppendUint16(b, uint16(off))
	return binary.LittleEndian.AppendUint32(b, uint32(imm))
}

// deviceProgram allows making any node (an image may contain some) and using
// the allowed ones, block devices none but these. Context: u32 access_type (low half type, high half access),
// u32 major, u32 minor.
func deviceProgram(blocks []Device) []byte {
	const (
		ldxW  = 0x61 // dst = *(u32*)(src + off)
		movK  = 0xb7
		movX  = 0xbf
		andK  = 0x57
		rshK  = 0x77
		jeqK  = 0x15
		jneK  = 0x55
		exit  = 0x95
		r0    = 0
		ctx   = 1
		typ   = 2
		acc   = 3
		major = 4
		minor = 5
		write = 6 // scratch
	)
	var p []byte
	add := func(b []byte) { p = append(p, b...) }
	ret := func(v int32) { add(instruction(movK, r0, 0, 0, v)); add(instruction(exit, 0, 0, 0, 0)) }
	add(instruction(ldxW, typ, ctx, 0, 0))
	add(instruction(movX, acc, typ, 0, 0))
	add(instruction(andK, typ, 0, 0, 0xffff))
	add(instruction(rshK, acc, 0, 0, 16))
	add(instruction(ldxW, major, ctx, 4, 0))
	add(instruction(ldxW, minor, ctx, 8, 0))
	add(instruction(jneK, acc, 0, 2, accessMknod)) // mknod alone: allow
	ret(1)
	add(instruction(jeqK, typ, 0, int16(len(blocks)*blockRule+2), deviceTypeCharacter))
	for _, d := range blocks {
		add(instruction(jneK, major, 0, blockRule-1, int32(unix.Major(d.Number))))
		add(instruction(jneK, minor, 0, blockRule-2, int32(unix.Minor(d.Number))))
		denied := int32(0)
		if d.ReadOnly {
			denied = accessWrite
		}
		add(instruction(movX, write, acc, 0, 0))
		add(instruction(andK, write, 0, 0, denied))
		add(instruction(jneK, write, 0, blockRule-5, 0))
		ret(1)
	}
	ret(0)
	for _, d := range allowedDevices {
		if d.minor < 0 {
			add(instruction(jneK, major, 0, 2, d.major))
		} else {
			add(instruction(jneK, major, 0, 3, d.major))
			add(instruction(jneK, minor, 0, 2, d.minor))
		}
		ret(1)
	}
	ret(0)
	return p
}

// blockRule is the length of a block device's part of the program, in instructions.
const blockRule = 7

// loadTries bounds how often the program is handed to the kernel.
const loadTries = 20

// restrictDevices attaches the program to the group.
func restrictDevices(dir string, blocks []Device) error {
	group, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("restricting devices: %w", err)
	}
	defer group.Close()
	prog := deviceProgram(blocks)
	licence := []byte("Apache-2.0\x00")
	load := struct {
		progType, count uint32
		insns, licence  unsafe.Pointer // so typed that the runtime knows of them: it may move what lies on a stack
		logLevel, size  uint32
		log             uint64
		kernel, flags   uint32
		name            [16]byte
		ifindex, attach uint32
	}{
		progType: progTypeCgroupDev, count: uint32(len(prog) / 8),
		insns: unsafe.Pointer(&prog[0]), licence: unsafe.Pointer(&licence[0]),
		attach: attachCgroupDevice,
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, bpfProgLoad, uintptr(unsafe.Pointer(&load)), unsafe.Sizeof(load))
	// The kernel's verifier gives up at a pending signal, which the Go runtime sends
	// its own threads to preempt them.
	for try := 1; errno == unix.EAGAIN && try < loadTries; try++ {
		fd, _, errno = unix.Syscall(unix.SYS_BPF, bpfProgLoad, uintptr(unsafe.Pointer(&load)), unsafe.Sizeof(load))
	}
	runtime.KeepAlive(prog)
	runtime.KeepAlive(licence)
	if errno != 0 {
		return fmt.Errorf("restricting devices: loading program: %w", errno)
	}
	defer unix.Close(int(fd))
	attach := struct{ target, prog, kind, flags uint32 }{uint32(group.Fd()), uint32(fd), attachCgroupDevice, 0}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, bpfProgAttach, uintptr(unsafe.Pointer(&attach)), unsafe.Sizeof(attach)); errno != 0 {
		return fmt.Errorf("restricting devices: attaching program: %w", errno)
	}
	return nil
}
