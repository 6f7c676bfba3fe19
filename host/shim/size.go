package shim

import (
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
)

// What a VM has beside the containers' limits, where the owner's tool has not
// put the VM's size on the pod: as owner/spec counts, with a guess for images,
// whose size the host does not know.
const (
	overheadMiB  = 128
	unlimitedMiB = 128
	imagesMiB    = 256
)

// size chooses the VM. The annotations that coffer seal writes decide, since the
// measurement of some TEEs depends on them; else the pod's limits.
func size(c *Config, annotations map[string]string, limits podLimits) (memoryMiB, vcpus int, err error) {
	mib, err := number(annotations, launch.AnnotationMemory)
	if err != nil {
		return 0, 0, err
	}
	cpus, err := number(annotations, launch.AnnotationVCPUs)
	if err != nil {
		return 0, 0, err
	}
	if mib == 0 {
		mib = int64(c.MemoryMiB)
	}
	if mib == 0 {
		mib = overheadMiB + imagesMiB
		if m := limits.memory; m > 0 {
			mib += (min(m, 1<<50) + 1<<20 - 1) >> 20
		} else {
			mib += unlimitedMiB
		}
	}
	if memoryMiB, err = launch.RungFor(int(min(mib, 1<<30))); err != nil {
		return 0, 0, err
	}
	if cpus == 0 {
		cpus = int64(c.VCPUs)
	}
	if cpus == 0 {
		cpus = launch.DefaultVCPUs
		if q, p := limits.cpuQuota, limits.cpuPeriod; q > 0 && p > 0 {
			cpus = max(cpus, (q-1)/p+1)
		}
	}
	if c.MaxMemoryMiB > 0 && memoryMiB > c.MaxMemoryMiB || c.MaxVCPUs > 0 && cpus > int64(c.MaxVCPUs) {
		return 0, 0, fmt.Errorf("%d MiB and %d vCPUs are more than this runtime handler gives a pod (%d MiB, %d vCPUs; 0 is no bound)", memoryMiB, cpus, c.MaxMemoryMiB, c.MaxVCPUs)
	}
	if cpus < 1 || cpus > launch.MaxVCPUs {
		return 0, 0, fmt.Errorf("%d vCPUs are not between 1 and %d", cpus, launch.MaxVCPUs)
	}
	return memoryMiB, int(cpus), nil
}
