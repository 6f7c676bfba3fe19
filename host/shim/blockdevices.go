package shim

import (
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cofferproject/coffer/api/agentpb"
)

// devices puts the bundle's devices into a request that has the policy's: each node with
// the host's numbers and its rule of the cgroup, and of the guest's devices those that have
// a node. Rules without a node are what every container has, or nothing to a guest.
func devices(req *agentpb.CreateContainerRequest, l *specs.Linux) {
	guests := req.Devices
	req.Devices, req.OCI.Linux.Devices = nil, nil
	var rules []*agentpb.LinuxDeviceCgroup
	for _, d := range l.Devices {
		path := filepath.Clean(d.Path)
		node := &agentpb.LinuxDevice{Path: path, Type: d.Type, Major: d.Major, Minor: d.Minor}
		req.OCI.Linux.Devices = append(req.OCI.Linux.Devices, node)
		if r := deviceRule(l.Resources, &d); r != nil {
			rules = append(rules, r)
		}
		if i := slices.IndexFunc(guests, func(g *agentpb.Device) bool { return g.ContainerPath == path }); i >= 0 {
			req.Devices = append(req.Devices, guests[i])
			guests = slices.Delete(slices.Clone(guests), i, i+1)
		}
	}
	if len(rules) == 0 {
		return
	}
	if req.OCI.Linux.Resources == nil {
		req.OCI.Linux.Resources = &agentpb.LinuxResources{}
	}
	req.OCI.Linux.Resources.Devices = rules
}

// deviceRule finds what the cgroup allows for a node; nil: nothing for it alone.
func deviceRule(r *specs.LinuxResources, d *specs.LinuxDevice) *agentpb.LinuxDeviceCgroup {
	if r == nil {
		return nil
	}
	for _, c := range r.Devices {
		if !c.Allow || c.Type != d.Type || c.Major == nil || c.Minor == nil || *c.Major != d.Major || *c.Minor != d.Minor {
			continue
		}
		access := ""
		for _, a := range "rwm" { // the kubelet has another order
			if strings.ContainsRune(c.Access, a) {
				access += string(a)
			}
		}
		return &agentpb.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: d.Major, Minor: d.Minor, Access: access}
	}
	return nil
}
