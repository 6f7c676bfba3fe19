package guestimage

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/owner/guestimage/internal/cpio"
	"github.com/cofferproject/coffer/owner/guestimage/internal/kmod"
	"github.com/cofferproject/coffer/owner/guestimage/internal/lz4"
)

// Modules lists what a pod needs beyond what the pinned kernel has built in
// (virtio core, PCI transport and console, TPM, ext4, fuse, tmpfs). Each costs
// boot time, and each is attack surface, so nothing is here for later.
var Modules = []string{
	"virtio_blk", // initdata
	"virtio_net", // the pod's network
	"virtio_rng", // entropy from the host, mixed into what the CPU gives
	"overlay",    // containers' root filesystems
}

// TEEDrivers are modules for TEE devices, with tsm and configfs. The guest loads
// those of the hardware that its kernel has found (guest/boot).
var TEEDrivers = []string{"sev_guest", "tdx_guest", "nsm"}

// VolumeModules are for volumes on disks. The guest loads them where the host gives
// such a disk; the CPU's own AES and SHA-256 where it has them.
var VolumeModules = []string{"dm_crypt", "dm_integrity", "xts", "authenc"}

// VolumeAccelerators are the CPU's; a CPU that has none refuses its module.
var VolumeAccelerators = []string{"aesni_intel", "sha256_ssse3"}

// Files that the guest reads from its image.
const (
	FloorFile   = "etc/coffer/floor"   // Unix seconds: no certificate that ended before it is accepted
	DebugMarker = "etc/coffer/debug"   // present in debug variants alone
	VariantFile = "etc/coffer/variant" // "release", "sim", "debug", "sim-debug"
	OrderFile   = "modules/order"      // paths of modules, one a line, in loading order
	// DriverOrder and a TEE driver's name: what to load for it, in the same form.
	DriverOrder = "modules/order."
	// VolumeOrder lists VolumeModules, VolumeFaster VolumeAccelerators.
	VolumeOrder  = "modules/volumes"
	VolumeFaster = "modules/volumes.cpu"
)

// contents is what distinguishes one initrd from another.
type contents struct {
	variant string
	init    []byte
	modules []kmod.Module
	drivers map[string][]kmod.Module // by TEE driver, its dependencies first
	volumes []kmod.Module
	faster  []kmod.Module
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
	packed := map[string]bool{}
	pack := func(orderFile string, modules []kmod.Module) {
		var order strings.Builder
		for _, m := range modules {
			p := "modules/" + m.Name + ".ko"
			if !packed[p] {
				w.File(p, 0o644, m.ELF)
			}
			packed[p] = true
			fmt.Fprintf(&order, "%s\n", p)
		}
		w.File(orderFile, 0o644, []byte(order.String()))
	}
	pack(OrderFile, c.modules)
	for _, d := range slices.Sorted(maps.Keys(c.drivers)) {
		pack(DriverOrder+d, c.drivers[d])
	}
	pack(VolumeOrder, c.volumes)
	pack(VolumeFaster, c.faster)
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
