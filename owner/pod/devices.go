package pod

import (
	"fmt"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// checkDevices judges the block volumes of c. Where a device may not be for what else is
// there, the policy's own check says.
func (p *Pod) checkDevices(c Container, volumes map[string]*corev1.Volume, ps *problems) {
	seen, names := map[string]bool{}, map[string]bool{}
	for i, d := range c.VolumeDevices {
		at := fmt.Sprintf("%s.volumeDevices[%d]", c.Path, i)
		switch v := volumes[d.Name]; {
		case v == nil:
			ps.add(at+".name", "there is no volume %q", d.Name)
		case v.PersistentVolumeClaim == nil:
			ps.add(at+".name", "%s is no persistentVolumeClaim: only that can be a device", d.Name)
		case p.mounted(d.Name):
			ps.add(at+".name", "%s is mounted, too: a volume is a device or a file system", d.Name)
		case names[d.Name]:
			ps.add(at+".name", "%s twice", d.Name)
		}
		names[d.Name] = true
		switch dest := path.Clean(d.DevicePath); {
		case !path.IsAbs(d.DevicePath) || strings.ContainsAny(d.DevicePath, ":\x00") || strings.Contains(d.DevicePath, "/.."):
			ps.add(at+".devicePath", "%q is not an absolute path", d.DevicePath)
		case dest == "/" || dest == "/dev" || under(dest, "/proc") || under(dest, "/sys"):
			ps.add(at+".devicePath", "%s belongs to the container's root or kernel file systems", dest)
		case seen[dest]:
			ps.add(at+".devicePath", "%s twice", dest)
		default:
			seen[dest] = true
		}
	}
}

// mounted reports whether a container mounts the volume.
func (p *Pod) mounted(volume string) bool {
	for _, c := range p.All() {
		for _, m := range c.VolumeMounts {
			if m.Name == volume {
				return true
			}
		}
	}
	return false
}

// Block reports whether containers have the volume as a device.
func (p *Pod) Block(volume string) bool {
	for _, c := range p.All() {
		for _, d := range c.VolumeDevices {
			if d.Name == volume {
				return true
			}
		}
	}
	return false
}
