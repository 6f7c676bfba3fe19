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
)

// modulesDir holds the guest image's modules and their order of loading.
const modulesDir = "/modules"

// teeModules are drivers of TEE hardware that need not be there; the kernel tells.
var teeModules = []string{"sev_guest", "tdx_guest", "nsm"}

// Modules loads the modules of the guest image, in the order the image gives,
// and then forbids loading any more.
func Modules() error {
	b, err := os.ReadFile(filepath.Join(modulesDir, "order"))
	if errors.Is(err, os.ErrNotExist) {
		return lockModules() // everything is built in
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
	if err := mountConfigfs(); err != nil {
		return err
	}
	return lockModules()
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
	err = unix.FinitModule(int(f.Fd()), "", flags)
	if errors.Is(err, unix.ENODEV) && slices.Contains(teeModules, strings.TrimSuffix(filepath.Base(name), ".ko")) {
		return nil
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
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
