package shim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/host/cdi"
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
func (h *holder) addDevices(c *Config, document []byte, annotations map[string]string) error {
	var err error
	if h.deviceNames, err = cdi.Requested(annotations); err != nil {
		return err
	}
	d, err := devicesOf(c, h.deviceNames)
	if err != nil {
		return err
	}
	if err := fits(h.spec.TEE, d); err != nil {
		return err
	}
	h.spec.HostDevices, h.spec.SimDevices = d.PCI, d.Simulated
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
			"the pod is sealed to attest with a device (%s) and is given none: name one in an annotation %s..., and take a class and a node that have it", strings.Join(want, ", "), cdi.AnnotationPrefix)}
	}
	return nil
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
