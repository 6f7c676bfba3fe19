package hostcheck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Host is a machine to look at. This gives the one that the process runs on; tests
// make others.
type Host struct {
	Root string // where /sys, /proc and /dev are: "/"
	Arch string // as GOARCH
	// QuoteSocket is the path of the socket of the quote generation service.
	QuoteSocket string
	// Extension asks KVM (KVM_CHECK_EXTENSION).
	Extension func(capability int) (int, error)
	// SNPStatus asks the secure processor (SNP_PLATFORM_STATUS).
	SNPStatus func() (SNPStatus, error)
	// CPU asks the processor (CPUID).
	CPU func() CPU
	// QEMU asks the platform's QEMU.
	QEMU func(ctx context.Context) (QEMU, error)
}

// SNPStatus is what the secure processor says of itself (SNP firmware ABI,
// SNP_PLATFORM_STATUS).
type SNPStatus struct {
	Major, Minor   uint8
	State          uint8 // 1: initialised
	RMPInitialised bool
}

// CPU is what CPUID says of memory encryption, and of the memory of enclaves.
type CPU struct {
	CBit     int // leaf 0x8000001f, EBX bits 5:0
	Reduced  int // EBX bits 11:6
	PhysBits int // leaf 0x80000008, EAX bits 7:0

	EPC uint64 // bytes: leaf 0x12, subleaves from 2 on
}

// QEMU is what a QEMU says of itself.
type QEMU struct {
	Version           string
	Machines, Objects []string
}

// Bounds in bytes.
const (
	maxCPUInfo = 8 << 20
	maxSysfs   = 4 << 10
	maxQCNL    = 64 << 10
)

func (h *Host) path(name string) string { return filepath.Join(h.Root, name) }

func (h *Host) read(name string, limit int64) ([]byte, error) {
	return readBounded(h.path(name), limit)
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return b, nil
}

func (h *Host) kvmDevice() Check {
	return h.device("kvm-device", "/dev/kvm can be opened", "dev/kvm", "turn virtualisation on in the firmware setup, load kvm_amd or kvm_intel, and give the node's process access")
}

// device checks that a device can be opened; what it is, the kernel decides.
func (h *Host) device(id, what, name, fix string) Check {
	c := Check{ID: id, What: what, Fix: fix}
	f, err := os.OpenFile(h.path(name), os.O_RDWR, 0)
	if err != nil {
		c.Found = reason(err)
		return c
	}
	_ = f.Close()
	c.OK, c.Found = true, "/"+name
	return c
}

func (h *Host) exists(id, what, name, fix string) Check {
	c := Check{ID: id, What: what, Fix: fix}
	if _, err := os.Stat(h.path(name)); err != nil {
		c.Found = "/" + name + ": " + reason(err)
		return c
	}
	c.OK, c.Found = true, "/"+name
	return c
}

// socket checks that a path is a socket.
func (h *Host) socket(id, what, path, fix string) Check {
	c := Check{ID: id, What: what, Fix: fix}
	fi, err := os.Stat(h.path(strings.TrimPrefix(path, "/")))
	switch {
	case err != nil:
		c.Found = reason(err)
	case fi.Mode()&os.ModeSocket == 0:
		c.Found = "it is no socket"
	default:
		c.OK, c.Found = true, "a socket"
	}
	return c
}

// fileSays checks a file of the kernel that says yes.
func (h *Host) fileSays(id, what, name, fix string) Check {
	c := Check{ID: id, What: what, Fix: fix}
	b, err := h.read(name, maxSysfs)
	if err != nil {
		c.Found = "/" + name + ": " + reason(err)
		return c
	}
	v := strings.TrimSpace(string(b))
	c.OK = v == "Y" || v == "y" || v == "1"
	c.Found = fmt.Sprintf("/%s says %.40q", name, v)
	return c
}

// extension asks KVM for a capability: bits of the answer that must be set, or with
// none any positive answer.
func (h *Host) extension(id, what string, capability, bits int, fix string) Check {
	c := Check{ID: id, What: what, Fix: fix}
	v, err := h.Extension(capability)
	if err != nil {
		c.Found = reason(err)
		return c
	}
	c.OK = v > 0 && v&bits == bits
	c.Found = fmt.Sprintf("KVM answers %#x to capability %d", v, capability)
	return c
}

// reason is an error without the path, which the check names.
func reason(err error) string {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "it is missing"
	case errors.Is(err, os.ErrPermission):
		return "access is denied"
	}
	return err.Error()
}
