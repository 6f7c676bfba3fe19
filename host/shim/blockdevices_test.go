package shim

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cofferproject/coffer/api/denial"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// blockBundle is a node's bundle of a pod with two block volumes.
func blockBundle(t *testing.T) (*podpolicy.Policy, *specs.Spec) {
	t.Helper()
	p := testPolicy()
	p.Volumes = append(p.Volumes,
		podpolicy.Volume{Name: "raw", Kind: podpolicy.VolumeDisk, Key: "kbs:///default/volumes/raw", Block: true},
		podpolicy.Volume{Name: "ref", Kind: podpolicy.VolumeDisk, Key: "kbs:///default/volumes/ref", Block: true},
	)
	p.Containers[0].Devices = []podpolicy.Device{{Volume: "raw", Path: "/dev/xvda"}, {Volume: "ref", Path: "/dev/xvdb", ReadOnly: true}}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	pods := filepath.Join(t.TempDir(), "pods")
	if err := os.MkdirAll(filepath.Join(pods, "0f1e/volumes/kubernetes.io~empty-dir/scratch"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := bundle(pods)
	s.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/xvdb", Type: "b", Major: 7, Minor: 3, FileMode: ptr(podMode), UID: ptr(uint32(0)), GID: ptr(uint32(6))},
		{Path: "/dev/xvda", Type: "b", Major: 7, Minor: 1, FileMode: ptr(podMode), UID: ptr(uint32(0)), GID: ptr(uint32(6))},
	}
	rule := func(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: access}
	}
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"}, rule(true, "c", 1, 3, "rwm"), // what every container has
		rule(true, "b", 7, 1, "mrw"), rule(true, "b", 7, 3, "r"),
	}
	return p, s
}

const podMode = os.FileMode(0o660)

// What a node makes of block volumes is allowed, and what it changes is denied.
func TestBlockDevicesOfANode(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *specs.Spec)
		reason denial.Reason // "": allowed
	}{
		"unchanged":    {func(*specs.Spec) {}, ""},
		"another path": {func(s *specs.Spec) { s.Linux.Devices[0].Path = "/dev/xvdc" }, podpolicy.DeviceUnexpected},
		"writable":     {func(s *specs.Spec) { s.Linux.Resources.Devices[3].Access = "rwm" }, podpolicy.DeviceMismatch},
		"no device":    {func(s *specs.Spec) { s.Linux.Devices = s.Linux.Devices[1:] }, podpolicy.DeviceMissing},
		"no rule":      {func(s *specs.Spec) { s.Linux.Resources.Devices = s.Linux.Resources.Devices[:3] }, podpolicy.DeviceMissing},
		"no limits":    {func(s *specs.Spec) { s.Linux.Resources = nil }, podpolicy.ResourceMismatch},
		"a node's device": {func(s *specs.Spec) {
			s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229})
		}, podpolicy.DeviceUnexpected},
		"a file system": {func(s *specs.Spec) {
			s.Linux.Devices = nil
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/xvda", Source: "/var/lib/kubelet/pods/0f1e/volumes/kubernetes.io~csi/raw/mount", Type: "bind"})
		}, podpolicy.MountUnexpected},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := blockBundle(t)
			c.change(s)
			r, err := create(p, &p.Containers[0], s, "c1", "pod1")
			if err != nil {
				t.Fatal(err)
			}
			g, err := guest(t, p).Authorize(r)
			if c.reason == "" {
				if err != nil {
					t.Fatal(err)
				}
				g.Done(nil)
				return
			}
			if d, ok := denial.As(err); !ok || d.Reason != c.reason {
				t.Errorf("%v, want %s", err, c.reason)
			}
		})
	}
}
