package shim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/host/cdi"
	"github.com/cofferproject/coffer/host/podresources"
)

// devicesOf finds the devices with these names, of those that the handler's file allows.
func devicesOf(c *Config, names []cdi.Name) (*cdi.Devices, error) {
	for _, n := range names {
		if !c.Devices.Has(n) {
			return nil, &cdi.Error{Reason: cdi.NotAllowed, Name: n.String(), Detail: "this runtime handler does not give it (devices in the handler's file): take a class that does, such as coffer-snp-gpu"}
		}
	}
	return c.resolver().Resolve(names)
}

func (c *Config) resolver() *cdi.Resolver {
	return &cdi.Resolver{Dirs: c.CDIDirs, Root: cmp.Or(c.root, "/")}
}

// addDevices plugs the devices that the pod's annotations name into its VM: a device
// that comes later would come into a TEE that has attested already.
func (h *holder) addDevices(ctx context.Context, c *Config, document []byte, s *podSpec) error {
	var err error
	if h.deviceNames, err = cdi.Requested(s.annotations); err != nil {
		return err
	}
	if c.PodResources != "" {
		if h.deviceNames, err = given(ctx, c.PodResources, s, h.deviceNames); err != nil {
			return err
		}
	}
	d, err := devicesOf(c, h.deviceNames)
	if err != nil {
		return err
	}
	if err := fits(h.spec.TEE, d); err != nil {
		return err
	}
	h.spec.HostDevices, h.spec.SimDevices, h.devices = d.PCI, d.Simulated, *d
	doc, err := initdata.Parse(document)
	if err != nil {
		return fmt.Errorf("annotation %s: %w", initdata.AnnotationKey, err)
	}
	want, err := doc.AdditionalDevices()
	if err != nil {
		return fmt.Errorf("annotation %s: %w", initdata.AnnotationKey, err)
	}
	if len(want) > 0 && len(d.PCI)+len(d.Simulated) == 0 {
		return &cdi.Error{Reason: cdi.Missing, Detail: fmt.Sprintf(
			"the pod is sealed to attest with a device (%s) and is given none: name one in an annotation %s... (or in resources.limits, where the class asks the kubelet), and take a class and a node that have it", strings.Join(want, ", "), cdi.AnnotationPrefix)}
	}
	return nil
}

// given are the devices that the kubelet has given the pod. One that an annotation
// names beside them is another pod's, or will be.
func given(ctx context.Context, socket string, s *podSpec, named []cdi.Name) ([]cdi.Name, error) {
	texts, err := podresources.Of(ctx, socket, s.namespace, s.name)
	if err != nil {
		return nil, err
	}
	var out []cdi.Name
	for _, s := range texts {
		n, err := cdi.ParseName(s)
		if err != nil {
			return nil, fmt.Errorf("what the kubelet has given the pod: %w", err)
		}
		out = append(out, n)
	}
	for _, n := range named {
		if !slices.Contains(out, n) {
			return nil, &cdi.Error{Reason: cdi.NotAllowed, Name: n.String(), Detail: "an annotation names it, and the kubelet has not given it to the pod: ask for it in resources.limits"}
		}
	}
	if len(out) > cdi.MaxNames {
		return nil, &cdi.Error{Reason: cdi.TooMany, Detail: fmt.Sprintf("more than %d devices", cdi.MaxNames)}
	}
	return out, nil
}

// fits refuses devices that a VM of the TEE cannot have.
func fits(tee launch.TEE, d *cdi.Devices) error {
	switch {
	case len(d.PCI) > 0 && !tee.TakesHostDevices():
		return &cdi.Error{Reason: cdi.WrongTEE, Name: d.PCI[0], Detail: fmt.Sprintf("a pod of %s is given no device of the node's: its guest could not tell it from a forged one", tee)}
	case len(d.Simulated) > 0 && !tee.Played():
		return &cdi.Error{Reason: cdi.WrongTEE, Name: d.Simulated[0], Detail: fmt.Sprintf("it is simulated, and a pod of %s has no simulated device", tee)}
	}
	return nil
}

// withoutEdits takes off a bundle what the node's runtime has put there for the pod's
// devices, by their CDI specifications: variables, mounts and nodes of VFIO's that mean
// something on the node alone. What the pod is sealed with stays.
func (p *pod) withoutEdits(c *podpolicy.Container, s *specs.Spec) {
	if s.Process != nil {
		s.Process.Env = p.variables(c, s.Process.Env)
	}
	if s.Linux != nil {
		s.Linux.Devices = slices.DeleteFunc(s.Linux.Devices, func(d specs.LinuxDevice) bool { return cdi.OfVFIO(d.Path) || slices.Contains(p.devices.Nodes, d.Path) })
	}
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool {
		return slices.Contains(p.devices.Mounts, cdi.Mount{Source: m.Source, Destination: m.Destination}) &&
			!slices.ContainsFunc(c.Mounts, func(own podpolicy.Mount) bool { return own.Destination == m.Destination })
	})
}

// variables gives an environment without those of the pod's devices. What is sealed under
// the name of one has the sealed value, over which the node has written its own.
func (p *pod) variables(c *podpolicy.Container, env []string) []string {
	var out []string
	for _, kv := range env {
		if slices.Contains(p.devices.Env, kv) {
			name, _, _ := strings.Cut(kv, "=")
			i := slices.IndexFunc(c.Env, func(e podpolicy.EnvVar) bool { return e.Name == name })
			if i < 0 {
				continue
			}
			if v := c.Env[i].Value; v != nil {
				kv = name + "=" + *v
			}
		}
		out = append(out, kv)
	}
	return out
}

// checkDevices refuses a container that was given a device which its VM has not: it
// would run without. What the VM has no container gets on the host's word.
func (p *pod) checkDevices(s *specs.Spec) error {
	names, err := cdi.Requested(s.Annotations)
	if err != nil {
		return err
	}
	// containerd repeats the pod's annotations on its containers.
	names = slices.DeleteFunc(names, func(n cdi.Name) bool { return slices.Contains(p.deviceNames, n) })
	d, err := devicesOf(p.config, names)
	if err != nil {
		return err
	}
	if s.Linux != nil {
		r := p.config.resolver()
		for i := range s.Linux.Devices {
			node := s.Linux.Devices[i].Path
			if !cdi.Node(node) {
				continue
			}
			found, err := r.PCI(node)
			if err != nil {
				return fmt.Errorf("device %s: %w", node, err)
			}
			d.PCI = append(d.PCI, found...)
		}
	}
	for _, have := range []struct{ given, plugged []string }{{d.PCI, p.devices.PCI}, {d.Simulated, p.devices.Simulated}} {
		for _, g := range have.given {
			if !slices.Contains(have.plugged, g) {
				return &cdi.Error{Reason: cdi.NotPlugged, Name: g, Detail: "the container is given it, and the pod's VM was started without: name it in an annotation " + cdi.AnnotationPrefix + "... of the pod"}
			}
		}
	}
	return nil
}
