package launch

import (
	"fmt"
	"path/filepath"
	"regexp"
	"sync"
)

// Disk is a disk of the guest for a volume of the pod.
type Disk struct {
	// Serial is the disk's serial number in the guest, at most 20 characters.
	Serial string `json:"serial"`
	// Path is a regular file or a block device on the host; "": a file of Bytes that
	// has no name and ends with the VM.
	Path  string `json:"path,omitempty"`
	Bytes int64  `json:"bytes,omitempty"` // of a disk without a Path
}

// MaxStores is how many files a process TEE may have: api/libos has descriptors for them.
const MaxStores = 4

// MaxDisks is how many a guest may have, and MaxDiskBytes how large one without a Path.
const (
	MaxDisks     = 8
	MaxDiskBytes = 8 << 40
)

// serialRE are serial numbers of virtio disks: 20 bytes, and none that QEMU's command
// line takes apart.
var serialRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9.-]{1,20}$`) })

func (s *Spec) validateDisks() error {
	switch {
	case len(s.Disks) > MaxDisks:
		return fmt.Errorf("launch spec: disks: %d, at most %d", len(s.Disks), MaxDisks)
	case len(s.Disks) > 0 && s.TEE == SGX:
		return fmt.Errorf("launch spec: disks: %s has none", s.TEE)
	case s.TEE.Process() && len(s.Disks) > MaxStores:
		return fmt.Errorf("launch spec: disks: %d, at most %d for %s", len(s.Disks), MaxStores, s.TEE)
	}
	serials := map[string]bool{}
	for i, d := range s.Disks {
		switch {
		case !serialRE().MatchString(d.Serial):
			return fmt.Errorf("launch spec: disks[%d].serial: %.40q is not 1 to 20 letters, digits, dots and hyphens", i, d.Serial)
		case serials[d.Serial]:
			return fmt.Errorf("launch spec: disks[%d].serial: %s comes twice", i, d.Serial)
		case d.Path != "" && !filepath.IsAbs(d.Path):
			return fmt.Errorf("launch spec: disks[%d].path: %.200q is no absolute path", i, d.Path)
		case (d.Path != "") == (d.Bytes != 0):
			return fmt.Errorf("launch spec: disks[%d]: exactly one of path and bytes belongs here", i)
		case d.Path == "" && s.TEE.Process():
			return fmt.Errorf("launch spec: disks[%d]: %s is in memory alone: a volume that ends with it needs no disk", i, s.TEE)
		case d.Bytes < 0 || d.Bytes > MaxDiskBytes:
			return fmt.Errorf("launch spec: disks[%d].bytes: %d is not between 1 and %d", i, d.Bytes, int64(MaxDiskBytes))
		}
		serials[d.Serial] = true
	}
	return nil
}
