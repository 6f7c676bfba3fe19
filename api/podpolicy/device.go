package podpolicy

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
)

// A container's block devices in requests. A host names each three times: as a device of
// the guest (Devices), as a node in the container (OCI.Linux.Devices) and by a rule of the
// cgroup (OCI.Linux.Resources.Devices). The numbers, mode and owner that it gives are those
// of its own node: they only have to lead from the node to its rule.

// Access in a rule of the cgroup: read, write, make nodes.
const (
	deviceAccess         = "rwm"
	deviceAccessReadOnly = "r"
	blockType            = "b"
	blockDriver          = "blk"
)

// DeviceAccess is the access that a request's rule has for d.
func (d *Device) DeviceAccess() string {
	if d.ReadOnly {
		return deviceAccessReadOnly
	}
	return deviceAccess
}

// blockDevices gives the guest's devices for c.
func (c *Container) blockDevices() []*agentpb.Device {
	var out []*agentpb.Device
	for _, d := range c.Devices {
		out = append(out, &agentpb.Device{Id: DiskSerial(d.Volume), Type: blockDriver, ContainerPath: d.Path})
	}
	return out
}

// ociDevices gives the nodes of c, numbered by their order.
func (c *Container) ociDevices() []*agentpb.LinuxDevice {
	var out []*agentpb.LinuxDevice
	for i, d := range c.Devices {
		out = append(out, &agentpb.LinuxDevice{Path: d.Path, Type: blockType, Minor: int64(i)})
	}
	return out
}

// deviceRules gives the rules of the nodes, in their order.
func (c *Container) deviceRules() []*agentpb.LinuxDeviceCgroup {
	var out []*agentpb.LinuxDeviceCgroup
	for i := range c.Devices {
		out = append(out, &agentpb.LinuxDeviceCgroup{Allow: true, Type: blockType, Minor: int64(i), Access: c.Devices[i].DeviceAccess()})
	}
	return out
}

// judgeDevices compares a request's devices with the container's: each of the three lists
// has each device once, in whatever order, and nothing else.
func (c *Container) judgeDevices(req *agentpb.CreateContainerRequest, claim string) *denial.Denial {
	nodes := req.GetOCI().GetLinux().GetDevices()
	rules := slices.Clone(req.GetOCI().GetLinux().GetResources().GetDevices())
	guests := slices.Clone(req.GetDevices())
	left := map[string]*Device{}
	for i := range c.Devices {
		left[c.Devices[i].Path] = &c.Devices[i]
	}
	for _, n := range nodes {
		at := fmt.Sprintf("%s.devices[%s]", claim, clip(n.GetPath()))
		d := left[n.GetPath()]
		if d == nil {
			return deny(DeviceUnexpected, at, "present", "no such device, or only once")
		}
		delete(left, d.Path)
		if n.GetType() != blockType {
			return deny(DeviceMismatch, at+".type", orMissing(n.GetType()), blockType)
		}
		i := slices.IndexFunc(rules, func(r *agentpb.LinuxDeviceCgroup) bool {
			return r.GetType() == n.GetType() && r.GetMajor() == n.GetMajor() && r.GetMinor() == n.GetMinor()
		})
		if i < 0 {
			return deny(DeviceMissing, at+".access", "missing", d.DeviceAccess())
		}
		if r := rules[i]; !r.GetAllow() || r.GetAccess() != d.DeviceAccess() {
			return deny(DeviceMismatch, at+".access", fmt.Sprintf("%q, allowed: %t", r.GetAccess(), r.GetAllow()), d.DeviceAccess())
		}
		rules = slices.Delete(rules, i, i+1)
		i = slices.IndexFunc(guests, func(g *agentpb.Device) bool { return g.GetContainerPath() == d.Path })
		if i < 0 {
			return deny(DeviceMissing, at+".id", "missing", DiskSerial(d.Volume))
		}
		want := &agentpb.Device{Id: DiskSerial(d.Volume), Type: blockDriver, ContainerPath: d.Path}
		if f := diff(at, guests[i].ProtoReflect(), want.ProtoReflect()); f != nil {
			f.Reason = DeviceMismatch
			return f
		}
		guests = slices.Delete(guests, i, i+1)
	}
	if missing := sortedKeys(left); len(missing) > 0 {
		return deny(DeviceMissing, fmt.Sprintf("%s.devices[%s]", claim, missing[0]), "missing", "present")
	}
	if len(guests) > 0 {
		return deny(DeviceUnexpected, fmt.Sprintf("%s.devices[%s]", claim, clip(guests[0].GetContainerPath())), "a device of the guest", "no such device, or only once")
	}
	if len(rules) > 0 {
		r := rules[0]
		return deny(DeviceUnexpected, claim+".devices", fmt.Sprintf("a rule %q for %q %d:%d", r.GetAccess(), r.GetType(), r.GetMajor(), r.GetMinor()), "one for each device")
	}
	return nil
}

// withoutDevices gives limits without the rules that judgeDevices judges.
func withoutDevices(r *agentpb.LinuxResources) protoreflect.Message {
	if r == nil {
		return r.ProtoReflect()
	}
	r = proto.CloneOf(r)
	r.Devices = nil
	return r.ProtoReflect()
}

// validateDevices checks the devices of c, whose mounts are checked.
func (c *Container) validateDevices(volumes map[string]*Volume) error {
	if len(c.Devices) > MaxDisks {
		return fmt.Errorf("devices: more than %d", MaxDisks)
	}
	taken := c.taken() // no device may be at, above or below
	seen := map[string]bool{}
	for i, d := range c.Devices {
		v := volumes[d.Volume]
		switch {
		case v == nil:
			return fmt.Errorf("devices[%d].volume: %s is no volume of the pod", i, clip(d.Volume))
		case !v.Block:
			return fmt.Errorf("devices[%d].volume: %s is no block volume", i, d.Volume)
		case seen[d.Volume]:
			return fmt.Errorf("devices[%d].volume: %s twice", i, d.Volume)
		case d.ReadOnly && slices.Contains(c.Capabilities, "CAP_SYS_ADMIN"):
			return fmt.Errorf("devices[%d].read_only: the container has CAP_SYS_ADMIN, with which it can write through a file system that it mounts", i)
		case !mountable(d.Path):
			return fmt.Errorf("devices[%d].path: %s may not be a device", i, clip(d.Path))
		}
		seen[d.Volume] = true
		for _, p := range taken {
			if within(d.Path, p) || within(p, d.Path) {
				return fmt.Errorf("devices[%d].path: %s is where the container has %s", i, clip(d.Path), p)
			}
		}
		taken = append(taken, d.Path)
	}
	return nil
}

// guestMade are the paths that every container has of the guest.
var guestMade = []string{
	"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts", "/dev/mqueue", "/dev/shm", "/dev/console",
	"/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr", DefaultTermination, "/etc/hosts", "/etc/hostname", "/etc/resolv.conf",
}

// taken gives where the container has mounts, VOLUMEs of the image and what the guest makes.
func (c *Container) taken() []string {
	var out []string
	for _, m := range c.Mounts {
		out = append(out, m.Destination)
	}
	return append(append(out, c.ImageVolumes...), guestMade...)
}

// within reports whether p is dir or below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
