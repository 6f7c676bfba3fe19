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
		case v.Key == "" && file != "":
			return nil, fmt.Errorf("--volume %s: it ends with the pod, so its disk is made for it", v.Name)
		case v.Key == "":
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
