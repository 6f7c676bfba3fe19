package spec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/owner/pod"
)

// The VM's memory beside the containers': image layers lie in memory, unless they have
// a disk, unpacked to about three times their size in the registry.
const (
	guestOverheadMiB = 128 // kernel, initrd, agent and key holder
	unlimitedMiB     = 128 // for all containers that set neither limit nor request
	unpackFactor     = 3
)

// cpuPeriod is the kubelet's, in microseconds.
const cpuPeriod = 100000

func resources(c pod.Container) podpolicy.Resources {
	var r podpolicy.Resources
	if q, ok := c.Resources.Limits[corev1.ResourceMemory]; ok {
		r.MemoryBytes = q.Value()
	}
	if q, ok := c.Resources.Limits[corev1.ResourceCPU]; ok && !q.IsZero() {
		r.CPUQuota, r.CPUPeriod = max(q.MilliValue()*cpuPeriod/1000, 1000), cpuPeriod
	}
	q, ok := c.Resources.Requests[corev1.ResourceCPU]
	if !ok {
		q, ok = c.Resources.Limits[corev1.ResourceCPU]
	}
	if ok && !q.IsZero() {
		r.CPUShares = uint64(min(max(q.MilliValue()*1024/1000, 2), 262144))
	}
	return r
}

// need is what one container needs of the VM: its limits, else its requests.
func need(c pod.Container, name corev1.ResourceName) (int64, bool) {
	q, ok := c.Resources.Limits[name]
	if !ok {
		q, ok = c.Resources.Requests[name]
	}
	if name == corev1.ResourceCPU {
		return q.MilliValue(), ok
	}
	return q.Value(), ok
}

// size chooses the VM: containers run side by side, init containers one by one.
func (b *builder) size(images map[string]*ResolvedImage) error {
	var sum, most [2]int64
	unlimited := false
	layers := map[string]int64{}
	for _, c := range b.pod.All() {
		layers[c.Image] = images[c.Image].LayerBytes
		for i, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceCPU} {
			n, ok := need(c, name)
			if c.Init {
				most[i] = max(most[i], n)
			} else {
				sum[i] += n
			}
			unlimited = unlimited || !ok && i == 0
		}
	}
	bytes := max(sum[0], most[0])
	for _, n := range layers {
		if b.opts.ImagesOnDisk == 0 {
			bytes += unpackFactor * n
		}
	}
	for _, v := range b.policy.Volumes {
		for _, f := range v.Files {
			bytes += f.Size
		}
	}
	mib := guestOverheadMiB + int((bytes+1<<20-1)>>20)
	if unlimited {
		mib += unlimitedMiB
	}
	if b.opts.MemoryMiB > 0 {
		mib = b.opts.MemoryMiB
	}
	rung, err := launch.RungFor(mib)
	if err != nil {
		return fmt.Errorf("sizing the VM: %w", err)
	}
	b.plan.MemoryMiB = rung
	b.plan.VCPUs = b.opts.VCPUs
	if b.plan.VCPUs == 0 {
		b.plan.VCPUs = max(launch.DefaultVCPUs, int((max(sum[1], most[1])+999)/1000))
	}
	if b.plan.VCPUs > 64 {
		return fmt.Errorf("sizing the VM: %d vCPUs, at most 64", b.plan.VCPUs)
	}
	return nil
}
