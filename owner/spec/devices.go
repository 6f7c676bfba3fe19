package spec

import (
	"path"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/owner/pod"
)

// devices puts the block volumes of a container into the policy. Only their claim says
// whether they are read-only, as for the kubelet.
func (b *builder) devices(c pod.Container) []podpolicy.Device {
	var out []podpolicy.Device
	for _, d := range c.VolumeDevices {
		v := b.pod.Volume(d.Name)
		readOnly := v != nil && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
		out = append(out, podpolicy.Device{Volume: d.Name, Path: path.Clean(d.DevicePath), ReadOnly: readOnly})
	}
	return out
}
