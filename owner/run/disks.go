package run

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// disks gives the guest's disks for the policy's volumes: files has those that last,
// by volume.
func disks(policy *podpolicy.Policy, files map[string]string) ([]launch.Disk, error) {
	left := maps.Clone(files)
	var out []launch.Disk
	for _, v := range policy.Disks() {
		d := launch.Disk{Serial: podpolicy.DiskSerial(v.Name)}
		switch file := left[v.Name]; {
		case !v.Kept() && file != "":
			return nil, fmt.Errorf("--volume %s: it ends with the pod, so its disk is made for it", v.Name)
		case !v.Kept():
			d.Bytes = v.SizeLimit
		case file == "":
			return nil, fmt.Errorf("volume %s is on a disk: give it with --volume %s=FILE", v.Name, v.Name)
		default:
			if _, err := os.Stat(file); err != nil {
				return nil, fmt.Errorf("--volume %s: %w (an empty one is made with truncate -s SIZE)", v.Name, err)
			}
			d.Path = file
		}
		delete(left, v.Name)
		out = append(out, d)
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		return nil, fmt.Errorf("--volume %s: the pod has no such volume on a disk (--volume-key seals it so)", name)
	}
	return out, nil
}

// checkVolumes refuses volumes that a TEE cannot have, while there is somebody to tell;
// the guest refuses them too.
func checkVolumes(o *PodOptions, policy *podpolicy.Policy) error {
	if policy == nil {
		return nil
	}
	for _, v := range policy.Disks() {
		switch process := o.TEE.Process(); {
		case process && v.Name == podpolicy.ImagesVolume:
			return fmt.Errorf("--images-on-disk: %s keeps all of a pod in memory: leave it out, or use a TEE with a VM", o.TEE)
		case process && v.Block:
			return fmt.Errorf("volumeDevices of volume %s: %s is a process, which has no devices: use volumeMode Filesystem, or a TEE with a VM", v.Name, o.TEE)
		case process && !v.Kept():
			return fmt.Errorf("--volume-on-disk %s: %s keeps all of a pod in memory: leave it out, or use a TEE with a VM", v.Name, o.TEE)
		case !process && v.Sealing != "":
			return fmt.Errorf("--volume-sealing %s: %s has no sealing key: use --volume-key alone", v.Name, o.TEE)
		}
	}
	if n := len(policy.Disks()); o.TEE.Process() && n > launch.MaxStores {
		return fmt.Errorf("%d volumes that outlive the pod, and %s has room for %d", n, o.TEE, launch.MaxStores)
	}
	return nil
}
