package guestimage

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/owner/guestimage/internal/cpio"
	"github.com/cofferproject/coffer/owner/guestimage/internal/kmod"
	"github.com/cofferproject/coffer/owner/guestimage/internal/lz4"
)

// Modules lists what a pod needs beyond what the pinned kernel has built in
// (virtio core, PCI transport and console, TPM, ext4, fuse, tmpfs). Each costs
// boot time under TCG, and each is attack surface, so nothing is here for later.
var Modules = []string{
	"virtio_blk", // initdata
	"virtio_net", // the pod's network
	"virtio_rng", // entropy from the host, mixed into what the CPU gives
	"overlay",    // containers' root filesystems
	// TEE devices: each refuses to load where its hardware is not.
	"sev_guest", // with tsm and configfs: reports
	"tdx_guest",
	"nsm", // Nitro
}

// Files that the guest reads from its image.
const (
	FloorFile   = "etc/coffer/floor"   // Unix seconds: no certificate that ended before it is accepted
	DebugMarker = "etc/coffer/debug"   // present in debug variants alone
	VariantFile = "etc/coffer/variant" // "release", "sim", "debug", "sim-debug"
	OrderFile   = "modules/order"      // paths of modules, one a line, in loading order
)

// contents is what distinguishes one initrd from another.
type contents struct {
	variant string
	init    []byte
	modules []kmod.Module
	floor   int64
	debug   bool
}

// mountPoints exist in the image because its root may be read-only by the time
// something is mounted on them.
var mountPoints = []string{"dev", "proc", "sys", "run", "tmp"}

// initrd packs one image: an LZ4 legacy frame of a cpio archive. The order of
// entries is fixed.
func initrd(c contents) ([]byte, error) {
	w := cpio.New()
	for _, d := range mountPoints {
		perm := uint32(0o755)
		if d == "tmp" {
			perm = 0o1777
		}
		w.Dir(d, perm)
	}
	w.CharDev("dev/console", 0o600, 5, 1) // the kernel opens it before anything is mounted
	w.File("init", 0o755, c.init)
	w.File(FloorFile, 0o644, []byte(strconv.FormatInt(c.floor, 10)+"\n"))
	w.File(VariantFile, 0o644, []byte(c.variant+"\n"))
	if c.debug {
		w.File(DebugMarker, 0o644, []byte("debug image: its console shows what a release image hides\n"))
	}
	// Names without a lookup service: the guest's own files only.
	w.File("etc/nsswitch.conf", 0o644, []byte("hosts: files dns\n"))
	w.File("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n"))
	var order strings.Builder
	for _, m := range c.modules {
		p := "modules/" + m.Name + ".ko"
		w.File(p, 0o644, m.ELF)
		fmt.Fprintf(&order, "%s\n", p)
	}
	w.File(OrderFile, 0o644, []byte(order.String()))
	b, err := w.Bytes()
	if err != nil {
		return nil, fmt.Errorf("packing initrd %s: %w", c.variant, err)
	}
	if b, err = lz4.Pack(b); err != nil {
		return nil, fmt.Errorf("packing initrd %s: %w", c.variant, err)
	}
	return b, nil
}

// BareInitrd packs init alone: the yardstick of boot benchmarks and the probe
// of accelerators.
func BareInitrd(init []byte) ([]byte, error) {
	w := cpio.New()
	for _, d := range mountPoints {
		w.Dir(d, 0o755)
	}
	w.CharDev("dev/console", 0o600, 5, 1)
	w.File("init", 0o755, init)
	b, err := w.Bytes()
	if err != nil {
		return nil, fmt.Errorf("packing bare initrd: %w", err)
	}
	return b, nil
}
