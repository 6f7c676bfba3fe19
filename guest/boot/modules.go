package boot

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/podpolicy"
)

// modulesDir holds the guest image's modules and, in files, what to load in
// which order: always (order), and for each TEE driver (order.DRIVER).
const modulesDir = "/modules"

// Modules loads the modules of the guest image that this machine needs, and then
// forbids loading any more. Of a TEE that the kernel does not name each driver looks for
// itself, but not if look is false: a simulated TEE is behind a port, without a driver.
func Modules(look bool) error {
	if err := loadAll("order"); err != nil {
		return err
	}
	volumes, err := hasVolumes()
	if err != nil {
		return err
	}
	if volumes {
		if err := loadAll(volumesList); err != nil {
			return err
		}
		// A CPU without the instructions refuses its module: then it is slower.
		if err := loadAll(volumesList + ".cpu"); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	drivers := TEEDrivers()
	if len(drivers) == 0 {
		if _, tpm := FindTPM(); !tpm && look {
			drivers = driversIn(modulesDir)
		}
	}
	for _, d := range drivers {
		if err := loadAll(driverList + d); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	if err := mountConfigfs(); err != nil {
		return err
	}
	return lockModules()
}

// driverList begins the name of the file that lists a TEE driver's modules.
const driverList = "order."

// volumesList names the file that lists the modules of volumes on disks.
const volumesList = "volumes"

// hasVolumes reports whether the host has given a disk for a volume. All disks are
// there by then: ReadInitdata waits for the same ones.
func hasVolumes() (bool, error) {
	disks, err := virtioDisks("/sys/bus/virtio/devices", deviceWait)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(disks, func(d string) bool {
		b, err := os.ReadFile(filepath.Join("/sys/block", d, "serial"))
		return err == nil && strings.HasPrefix(string(b), podpolicy.DiskSerials)
	}), nil
}

// driversIn names all TEE drivers of the image.
func driversIn(dir string) (all []string) {
	lists, _ := filepath.Glob(filepath.Join(dir, driverList+"*"))
	for _, p := range lists {
		all = append(all, strings.TrimPrefix(filepath.Base(p), driverList))
	}
	return all
}

// TEEDrivers names the drivers of the TEE devices that the kernel has found.
func TEEDrivers() []string { return teeDrivers("/") }

// OnlyTPM reports whether a TPM is the one TEE that this machine can have.
func OnlyTPM() bool {
	_, tpm := FindTPM()
	return tpm && len(TEEDrivers()) == 0
}

func teeDrivers(root string) (found []string) {
	// arch/x86 registers this device in an SNP guest, for its driver to bind to.
	if _, err := os.Stat(filepath.Join(root, "sys/bus/platform/devices/sev-guest")); err == nil {
		found = append(found, "sev_guest")
	}
	if b, err := os.ReadFile(filepath.Join(root, "proc/cpuinfo")); err == nil && hasCPUFlag(b, "tdx_guest") {
		found = append(found, "tdx_guest")
	}
	const nitroSecurityModule = "0x0021" // virtio device id
	ids, _ := filepath.Glob(filepath.Join(root, "sys/bus/virtio/devices/*/device"))
	if slices.ContainsFunc(ids, func(p string) bool {
		b, err := os.ReadFile(p)
		return err == nil && strings.TrimSpace(string(b)) == nitroSecurityModule
	}) {
		found = append(found, "nsm")
	}
	return found
}

// hasCPUFlag looks into the first flags line of /proc/cpuinfo.
func hasCPUFlag(cpuinfo []byte, flag string) bool {
	for line := range bytes.Lines(cpuinfo) {
		if name, v, ok := bytes.Cut(line, []byte(":")); ok && string(bytes.TrimSpace(name)) == "flags" {
			return slices.Contains(strings.Fields(string(v)), flag)
		}
	}
	return false
}

// loadAll loads what a file of modulesDir lists; a missing file lists nothing.
func loadAll(list string) error {
	b, err := os.ReadFile(filepath.Join(modulesDir, list))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("loading modules: %w", err)
	}
	for line := range bytes.Lines(b) {
		name := strings.TrimSpace(string(line))
		if name == "" {
			continue
		}
		if err := loadModule(name); err != nil {
			return err
		}
	}
	return nil
}

// mountConfigfs mounts the file system of reports (configfs-tsm), if a driver has
// brought it.
func mountConfigfs() error {
	const dir = "/sys/kernel/config"
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := unix.Mount("configfs", dir, "configfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", dir, err)
	}
	return nil
}

func loadModule(name string) error {
	// The image is measured; IsLocal catches a mistake of its builder.
	if !filepath.IsLocal(name) {
		return fmt.Errorf("loading module %q: not a path in the image", name)
	}
	p := filepath.Join("/", name)
	if !strings.Contains(name, "/") {
		p = filepath.Join(modulesDir, name)
	}
	f, err := os.Open(p)
	if err != nil {
		return fmt.Errorf("loading module: %w", err)
	}
	defer f.Close()
	flags := 0
	if strings.HasSuffix(name, ".xz") || strings.HasSuffix(name, ".zst") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("loading module %s: %w", name, err)
	}
	return nil
}

func lockModules() error {
	if err := os.WriteFile("/proc/sys/kernel/modules_disabled", []byte("1"), 0); err != nil {
		return fmt.Errorf("forbidding further modules: %w", err)
	}
	return nil
}
