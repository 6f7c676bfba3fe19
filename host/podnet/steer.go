package podnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel asks a program of kind sk_lookup, attached to a network namespace, which
// socket a new connection is for where no established one is (bpf(2); Linux 5.9). It is
// assembled here: it never varies, but for the map.

// Kernel interface numbers (linux/bpf.h).
const (
	bpfMapCreate     = 0
	bpfMapUpdate     = 2
	bpfProgLoad      = 5
	bpfLinkCreate    = 28
	mapTypeSockMap   = 15
	progTypeSkLookup = 30
	attachSkLookup   = 36
	pseudoMapFD      = 1
	callMapLookup    = 1
	callSkRelease    = 86
	callSkAssign     = 124
	skPass           = 1
)

// Offsets in struct bpf_sk_lookup.
const (
	offFamily   = 8
	offProtocol = 12
	offLocalIP4 = 40
	offLocalIP6 = 44
)

// steerLoopback gives connections to 127.0.0.1 and ::1 in the namespace to the two
// listeners, of which one may be nil. It lasts until the result is closed.
func steerLoopback(ns int, listeners [2]syscall.Conn) (*os.File, error) {
	sockets, err := newSocketMap(listeners)
	if err != nil {
		return nil, fmt.Errorf("steering connections: %w", err)
	}
	defer unix.Close(sockets)
	prog, err := loadProgram(steering(sockets))
	if err != nil {
		return nil, fmt.Errorf("steering connections: loading the program: %w", err)
	}
	defer unix.Close(prog)
	link, err := bpf(bpfLinkCreate, unsafe.Pointer(&struct{ prog, target, attach, flags uint32 }{uint32(prog), uint32(ns), attachSkLookup, 0}), 16)
	if err != nil {
		return nil, fmt.Errorf("steering connections: attaching the program: %w", err)
	}
	return os.NewFile(uintptr(link), "sk_lookup"), nil
}

// newSocketMap holds the listeners: 0 is IPv4's, 1 is IPv6's.
func newSocketMap(sockets [2]syscall.Conn) (int, error) {
	fd, err := bpf(bpfMapCreate, unsafe.Pointer(&struct{ kind, key, value, entries, flags uint32 }{mapTypeSockMap, 4, 8, uint32(len(sockets)), 0}), 20)
	if err != nil {
		return -1, fmt.Errorf("making a map: %w", err)
	}
	for i, s := range sockets {
		if s == nil {
			continue
		}
		if err := putSocket(fd, uint32(i), s); err != nil {
			return -1, errors.Join(fmt.Errorf("putting a listener into the map: %w", err), unix.Close(fd))
		}
	}
	return fd, nil
}

func putSocket(fd int, key uint32, s syscall.Conn) error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var uerr error
	if err := raw.Control(func(socket uintptr) {
		value := uint64(socket)
		update := struct {
			fd, _      uint32
			key, value unsafe.Pointer
			flags      uint64
		}{fd: uint32(fd), key: unsafe.Pointer(&key), value: unsafe.Pointer(&value)}
		_, uerr = bpf(bpfMapUpdate, unsafe.Pointer(&update), unsafe.Sizeof(update))
	}); err != nil {
		return err
	}
	return uerr
}

// steering is the program: a TCP connection to a loopback address goes to the listener
// of its family, all else where it would.
func steering(sockets int) []byte {
	const (
		ldxW = 0x61 // dst = *(u32*)(src + off)
		stW  = 0x62 // *(u32*)(dst + off) = imm
		ldDW = 0x18 // dst = imm, over two instructions
		movK = 0xb7
		movX = 0xbf
		addK = 0x07
		jeqK = 0x15
		jneK = 0x55
		ja   = 0x05
		call = 0x85
		exit = 0x95

		r0, r1, r2, r3, ctx, sk, fp = 0, 1, 2, 3, 6, 7, 10
	)
	var p []byte
	add := func(code, dst, src uint8, off int16, imm int32) {
		p = append(p, code, dst|src<<4)
		p = binary.LittleEndian.AppendUint16(p, uint16(off))
		p = binary.LittleEndian.AppendUint32(p, uint32(imm))
	}
	// Every jump to pass is patched when its place is known.
	var toPass []int
	passUnless := func(off int16, imm int32) {
		add(ldxW, r1, ctx, off, 0)
		toPass = append(toPass, len(p))
		add(jneK, r1, 0, 0, imm)
	}
	network := func(b ...byte) int32 { return int32(binary.NativeEndian.Uint32(b)) }

	add(movX, ctx, r1, 0, 0)
	passUnless(offProtocol, unix.IPPROTO_TCP)
	add(ldxW, r1, ctx, offFamily, 0)
	v6 := len(p)
	add(jeqK, r1, 0, 0, unix.AF_INET6)
	passUnless(offFamily, unix.AF_INET)
	passUnless(offLocalIP4, network(127, 0, 0, 1))
	add(stW, fp, 0, -4, 0)
	found := len(p)
	add(ja, 0, 0, 0, 0)
	patch(p, v6)
	for i := range int16(3) {
		passUnless(offLocalIP6+4*i, 0)
	}
	passUnless(offLocalIP6+12, network(0, 0, 0, 1))
	add(stW, fp, 0, -4, 1)
	patch(p, found)
	add(ldDW, r1, pseudoMapFD, 0, int32(sockets))
	add(0, 0, 0, 0, 0)
	add(movX, r2, fp, 0, 0)
	add(addK, r2, 0, 0, -4)
	add(call, 0, 0, 0, callMapLookup)
	toPass = append(toPass, len(p))
	add(jeqK, r0, 0, 0, 0)
	add(movX, sk, r0, 0, 0)
	add(movX, r1, ctx, 0, 0)
	add(movX, r2, sk, 0, 0)
	add(movK, r3, 0, 0, 0)
	add(call, 0, 0, 0, callSkAssign)
	add(movX, r1, sk, 0, 0)
	add(call, 0, 0, 0, callSkRelease)
	for _, at := range toPass {
		patch(p, at)
	}
	add(movK, r0, 0, 0, skPass)
	add(exit, 0, 0, 0, 0)
	return p
}

// patch has the jump at an offset go to what comes next.
func patch(p []byte, at int) {
	binary.LittleEndian.PutUint16(p[at+2:], uint16((len(p)-at)/8-1))
}

// loadTries bounds how often the program is handed to the kernel, whose verifier gives
// up at a pending signal; the Go runtime sends its own threads some.
const loadTries = 20

func loadProgram(p []byte) (fd int, err error) {
	licence := []byte("Apache-2.0\x00")
	load := struct {
		kind, count     uint32
		insns, licence  unsafe.Pointer
		logLevel, size  uint32
		log             uint64
		kernel, flags   uint32
		name            [16]byte
		ifindex, attach uint32
	}{
		kind: progTypeSkLookup, count: uint32(len(p) / 8), attach: attachSkLookup,
		insns: unsafe.Pointer(&p[0]), licence: unsafe.Pointer(&licence[0]),
	}
	for range loadTries {
		if fd, err = bpf(bpfProgLoad, unsafe.Pointer(&load), unsafe.Sizeof(load)); !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return fd, err
}

// bpf makes the system call. Addresses in attr are pointers there too, so that the
// runtime knows of them: it may move what lies on a stack.
func bpf(command uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
