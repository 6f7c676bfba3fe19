package cdi

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/launch"
)

// Resolver finds devices on a node.
type Resolver struct {
	Dirs []string // of specifications; nil: DefaultDirs
	Root string   // where /sys is: "/"
}

// Devices are what a VM is to be given.
type Devices struct {
	// PCI are the addresses of host devices, as launch.Spec.HostDevices has them.
	PCI []string
	// Simulated are kinds of devices that coffer-simhw plays, by wire name.
	Simulated []string
	// Env ("NAME=value") and Mounts are what the specifications add to containers on
	// the node: a runtime there has put them into the bundle, and they are no part of
	// the pod.
	Env    []string
	Mounts []Mount
	Nodes  []string // paths in the container
}

// Resolve finds the devices with these names.
func (r *Resolver) Resolve(names []Name) (*Devices, error) {
	out := new(Devices)
	if len(names) == 0 {
		return out, nil
	}
	dirs := r.Dirs
	if dirs == nil {
		dirs = DefaultDirs
	}
	known, bad, err := readDirs(dirs)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		d, ok := known[n]
		switch {
		case !ok:
			detail := fmt.Sprintf("no CDI specification in %s has it", strings.Join(dirs, ", "))
			if len(bad) > 0 {
				detail += fmt.Sprintf("; %d files there are none, the first: %.300s", len(bad), bad[0])
			}
			return nil, &Error{Unknown, n.String(), detail}
		case d.file == ambiguous:
			return nil, &Error{Ambiguous, n.String(), "two CDI specifications of one folder have it"}
		}
		out.Env, out.Mounts = append(out.Env, d.env...), append(out.Mounts, d.mounts...)
		out.Nodes = append(out.Nodes, d.inside...)
		if d.simulated != "" {
			if !slices.Contains(out.Simulated, d.simulated) {
				out.Simulated = append(out.Simulated, d.simulated)
			}
			continue
		}
		found, err := r.pci(d.nodes)
		var why *Error
		if errors.As(err, &why) {
			why.Name, why.Detail = n.String(), fmt.Sprintf("%s (%s)", why.Detail, d.file)
		}
		if err != nil {
			return nil, err
		}
		for _, a := range found {
			if !slices.Contains(out.PCI, a) {
				out.PCI = append(out.PCI, a)
			}
		}
	}
	return out, nil
}

var (
	deviceNode = regexp.MustCompile(`^/dev/vfio/devices/(vfio[0-9]{1,9})$`)
	groupNode  = regexp.MustCompile(`^/dev/vfio/([0-9]{1,9})$`)
)

// controlNodes are of VFIO itself and stand for no device.
var controlNodes = []string{"/dev/vfio/vfio", "/dev/iommu"}

// Node reports whether a device node is one of VFIO's that stands for devices.
func Node(path string) bool { return deviceNode.MatchString(path) || groupNode.MatchString(path) }

// OfVFIO reports whether a device node is one of VFIO's own.
func OfVFIO(path string) bool { return Node(path) || slices.Contains(controlNodes, path) }

// PCI gives the addresses of the devices behind VFIO nodes of the host.
func (r *Resolver) PCI(nodes ...string) ([]string, error) { return r.pci(nodes) }

func (r *Resolver) pci(nodes []string) ([]string, error) {
	var out []string
	for _, node := range nodes {
		if slices.Contains(controlNodes, node) {
			continue
		}
		var found []string
		var err error
		if m := deviceNode.FindStringSubmatch(node); m != nil {
			found, err = r.ofDevice(m[1])
		} else if m := groupNode.FindStringSubmatch(node); m != nil {
			found, err = r.ofGroup(m[1])
		} else {
			return nil, &Error{NotVFIO, "", fmt.Sprintf("its node %.100q is of a driver on this node: a TEE takes whole PCI devices, bound to vfio-pci", node)}
		}
		if err != nil {
			return nil, err
		}
		for _, a := range found {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	if len(out) == 0 {
		return nil, &Error{NotVFIO, "", "it has no VFIO node (/dev/vfio/N or /dev/vfio/devices/vfioN)"}
	}
	return out, nil
}

func (r *Resolver) sys(parts ...string) string {
	return filepath.Join(append([]string{r.Root, "/sys"}, parts...)...)
}

// ofDevice gives the address behind a node of one device.
func (r *Resolver) ofDevice(name string) ([]string, error) {
	to, err := os.Readlink(r.sys("class/vfio-dev", name, "device"))
	if err != nil {
		return nil, &Error{Gone, "", fmt.Sprintf("/dev/vfio/devices/%s is no device of this machine", name)}
	}
	a := filepath.Base(to)
	if !launch.ValidPCIAddress(a) {
		return nil, &Error{NotVFIO, "", fmt.Sprintf("%.40q is no PCI device", a)}
	}
	return []string{a}, nil
}

// ofGroup gives the addresses of a group of devices that the IOMMU cannot tell apart:
// all of it is given away, but for the bridges between.
func (r *Resolver) ofGroup(number string) ([]string, error) {
	entries, err := os.ReadDir(r.sys("kernel/iommu_groups", number, "devices"))
	if err != nil {
		return nil, &Error{Gone, "", fmt.Sprintf("/dev/vfio/%s is no group of this machine", number)}
	}
	var out []string
	for _, e := range entries {
		a := e.Name()
		if !launch.ValidPCIAddress(a) {
			return nil, &Error{NotVFIO, "", fmt.Sprintf("%.40q is no PCI device", a)}
		}
		class, err := os.ReadFile(r.sys("bus/pci/devices", a, "class"))
		if err != nil {
			return nil, &Error{Gone, "", err.Error()}
		}
		const bridge = "0x06" // PCI base class
		if !strings.HasPrefix(string(class), bridge) {
			out = append(out, a)
		}
	}
	return out, nil
}
