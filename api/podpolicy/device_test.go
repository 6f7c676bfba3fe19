package podpolicy

import (
	"slices"
	"testing"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
)

// deviceRequest gives a request for the first container of the test policy, as a node has
// it: with the numbers, mode and owner of its own devices, in another order.
func deviceRequest(t *testing.T) (*Enforcer, *agentpb.CreateContainerRequest) {
	t.Helper()
	e, p := mustEnforcer(t)
	allow(t, e, p.CreateSandboxRequest("pod1", nil))
	v := p.Volume("config")
	for name, content := range map[string]string{"a.conf": "level=very", "d/b.conf": ""} {
		for _, r := range CopyFileRequests(v, name, []byte(content)) {
			allow(t, e, r)
		}
	}
	r := p.CreateContainerRequest(&p.InitContainers[0], "c1", "pod1", testEnv)
	l := r.OCI.Linux
	for i, n := range l.Devices {
		n.Major, n.Minor, n.FileMode, n.UID, n.GID = 7, int64(5-i), 0o660, 0, 6
		l.Resources.Devices[i].Major, l.Resources.Devices[i].Minor = 7, int64(5-i)
	}
	slices.Reverse(l.Devices)
	slices.Reverse(r.Devices)
	return e, r
}

func TestDevices(t *testing.T) {
	e, r := deviceRequest(t)
	g := allow(t, e, r)
	var names []string
	for _, v := range g.Volumes {
		names = append(names, v.Name)
	}
	if !slices.Equal(names, []string{"config", "scratch", "data", "spool", "fast", "raw", "ref"}) {
		t.Errorf("%v", names)
	}
	// A block volume has no folder whose figures could be asked for.
	refuse(t, e, &agentpb.VolumeStatsRequest{VolumeGuestPath: LocalDir + "/raw"}, PathDenied, "volume_guest_path")
}

// What a host may try with devices. "/srv/ref" is the request's first node.
func TestHostileDevices(t *testing.T) {
	other := &agentpb.LinuxDevice{Path: "/dev/sda", Type: "b", Major: 8}
	rule := &agentpb.LinuxDeviceCgroup{Allow: true, Type: "b", Major: 8, Access: "rwm"}
	for name, c := range map[string]struct {
		change func(r *agentpb.CreateContainerRequest, l *agentpb.Linux)
		reason denial.Reason
		claim  string
	}{
		"another path": {func(_ *agentpb.CreateContainerRequest, l *agentpb.Linux) { l.Devices[0].Path = "/dev/other" }, DeviceUnexpected, "devices[/dev/other]"},
		"the other's path": {func(_ *agentpb.CreateContainerRequest, l *agentpb.Linux) {
			l.Devices[0].Path, l.Devices[1].Path = l.Devices[1].Path, l.Devices[0].Path
		}, DeviceMismatch, "devices[/dev/xvda].access"},
		"a device more": {func(_ *agentpb.CreateContainerRequest, l *agentpb.Linux) {
			l.Devices, l.Resources.Devices = append(l.Devices, other), append(l.Resources.Devices, rule)
		}, DeviceUnexpected, "devices[/dev/sda]"},
		"twice":     {func(_ *agentpb.CreateContainerRequest, l *agentpb.Linux) { l.Devices = append(l.Devices, l.Devices[0]) }, DeviceUnexpected, "devices[/srv/ref]"},
		"none":      {func(r *agentpb.CreateContainerRequest, l *agentpb.Linux) { l.Devices = nil }, DeviceMissing, "devices[/dev/xvda]"},
		"character": {func(_ *agentpb.CreateContainerRequest, l *agentpb.Linux) { l.Devices[0].Type = "c" }, DeviceMismatch, "devices[/srv/ref].type"},
		"writable":  {func(_ *agentpb.CreateContainerRequest, l *agentpb.Linux) { l.Resources.Devices[1].Access = "rwm" }, DeviceMismatch, "devices[/srv/ref].access"},
		"forbidden": {func(_ *agentpb.CreateContainerRequest, l *agentpb.Linux) { l.Resources.Devices[1].Allow = false }, DeviceMismatch, "devices[/srv/ref].access"},
		"no rule": {func(_ *agentpb.CreateContainerRequest, l *agentpb.Linux) {
			l.Resources.Devices = l.Resources.Devices[:1]
		}, DeviceMissing, "devices[/srv/ref].access"},
		"a rule more": {func(_ *agentpb.CreateContainerRequest, l *agentpb.Linux) {
			l.Resources.Devices = append(l.Resources.Devices, rule)
		}, DeviceUnexpected, "devices"},
		"a rule for all": {func(_ *agentpb.CreateContainerRequest, l *agentpb.Linux) {
			l.Resources.Devices = append(l.Resources.Devices, &agentpb.LinuxDeviceCgroup{Allow: true, Type: "a", Access: "rwm"})
		}, DeviceUnexpected, "devices"},
		"another disk":       {func(r *agentpb.CreateContainerRequest, _ *agentpb.Linux) { r.Devices[0].Id = DiskSerial("data") }, DeviceMismatch, "devices[/srv/ref].id"},
		"another driver":     {func(r *agentpb.CreateContainerRequest, _ *agentpb.Linux) { r.Devices[0].Type = "vfio-pci" }, DeviceMismatch, "devices[/srv/ref].type"},
		"a path in the VM":   {func(r *agentpb.CreateContainerRequest, _ *agentpb.Linux) { r.Devices[0].VmPath = "/dev/vdb" }, DeviceMismatch, "devices[/srv/ref].vm_path"},
		"no guest's device":  {func(r *agentpb.CreateContainerRequest, _ *agentpb.Linux) { r.Devices = r.Devices[1:] }, DeviceMissing, "devices[/srv/ref].id"},
		"a guest's too many": {func(r *agentpb.CreateContainerRequest, _ *agentpb.Linux) { r.Devices = append(r.Devices, r.Devices[0]) }, DeviceUnexpected, "devices[/srv/ref]"},
		"as a file system": {func(r *agentpb.CreateContainerRequest, _ *agentpb.Linux) {
			r.Storages = append(r.Storages, &agentpb.Storage{Driver: "blk", Source: DiskSerial("raw"), Fstype: "ext4", MountPoint: LocalDir + "/raw", Shared: true})
		}, MountUnexpected, "storages"},
	} {
		t.Run(name, func(t *testing.T) {
			e, r := deviceRequest(t)
			c.change(r, r.OCI.Linux)
			refuse(t, e, r, c.reason, c.claim)
		})
	}
	// A container that has no devices, of a pod that has some.
	p := testPolicy()
	p.InitContainers[0].Devices = nil
	e := NewEnforcer(p)
	allow(t, e, p.CreateSandboxRequest("pod1", nil))
	r := p.CreateContainerRequest(&p.InitContainers[0], "c1", "pod1", testEnv)
	with := p.CreateContainerRequest(&p.InitContainers[1], "c1", "pod1", testEnv)
	r.OCI.Linux.Devices = with.OCI.Linux.Devices
	refuse(t, e, r, DeviceUnexpected, "init_containers[prepare].devices[/dev/xvda]")
	r.OCI.Linux.Devices, r.OCI.Linux.Resources.Devices = nil, with.OCI.Linux.Resources.Devices
	refuse(t, e, r, DeviceUnexpected, "init_containers[prepare].devices")
	r.OCI.Linux.Resources.Devices, r.Devices = nil, with.Devices
	refuse(t, e, r, DeviceUnexpected, "init_containers[prepare].devices[/dev/xvda]")
	// The same where the policy has no limits at all.
	p.InitContainers[0].Resources = Resources{}
	r = p.CreateContainerRequest(&p.InitContainers[0], "c1", "pod1", testEnv)
	r.OCI.Linux.Resources = &agentpb.LinuxResources{Devices: with.OCI.Linux.Resources.Devices}
	refuse(t, e, r, DeviceUnexpected, "init_containers[prepare].devices")
}
