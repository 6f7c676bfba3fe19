package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cofferproject/coffer/api/launch"
	contract "github.com/cofferproject/coffer/api/libos"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/host/cdi"
	"github.com/cofferproject/coffer/host/hostcheck"
	"github.com/cofferproject/coffer/host/libos"
	"github.com/cofferproject/coffer/host/podnet"
	"github.com/cofferproject/coffer/host/sandbox"
	"github.com/cofferproject/coffer/host/vmm"
)

// holder is what a handler's pods are held by: a virtual machine, or a process.
type holder struct {
	spec        *launch.Spec
	platform    *platform.Platform // nil: a process
	netns       string             // the pod's, which a process runs in
	files       []*os.File         // behind the paths of spec.Disks
	devices     cdi.Devices        // that the VM is started with
	deviceNames []cdi.Name         // what annotations or the kubelet call them
	process     string             // the one of the sandbox's that stands for it
}

// newHolder says what to launch for a pod of that size.
func newHolder(c *Config, memoryMiB, vcpus int) (*holder, error) {
	if c.TEE.Process() {
		program := func(name string) string { return filepath.Join(c.Bin, name) }
		return &holder{
			spec:    contract.NewSpec(c.TEE, program(contract.RuntimeProgram), program(contract.AgentProgram), memoryMiB, vcpus),
			process: "runtime",
		}, nil
	}
	pf, err := platform.Load(c.Platform)
	if err != nil {
		return nil, err
	}
	tee := c.TEE
	if tee == Hardware {
		node := hostcheck.This(pf.QEMU.Path, vmm.DefaultQuoteSocket)
		tee, err = nodeHardware(func(t launch.TEE) error {
			return node.Inspect(context.Background(), t, hostcheck.Needs{Firmware: pf.TEEFirmware[t.Firmware()].Path}).Err()
		})
		if err != nil {
			return nil, err
		}
	}
	spec, err := pf.Spec(tee, c.Variant, memoryMiB, vcpus)
	return &holder{spec: spec, platform: pf, process: "qemu"}, err
}

// nodeHardware gives the TEE that the node has hardware for. It never gives a simulated
// one.
func nodeHardware(inspect func(launch.TEE) error) (launch.TEE, error) {
	var lacks []string
	for _, t := range bound {
		err := inspect(t)
		if err == nil {
			return t, nil
		}
		var why *hostcheck.NotReadyError
		if errors.As(err, &why) {
			lacks = append(lacks, fmt.Sprintf("%s lacks %s (%s)", t, why.Check.ID, why.Check.Found))
		}
	}
	return "", fmt.Errorf("this node has no TEE hardware that a pod can run in: %s; coffer-node doctor, on the node, says what to do", strings.Join(lacks, "; "))
}

// connect joins the holder to the pod's network.
func (h *holder) connect(netns string) (*podnet.Network, error) {
	if h.platform != nil {
		return podnet.Connect(netns)
	}
	h.netns = netns
	return podnet.Describe(netns)
}

// driver makes what launches it on the network.
func (h *holder) driver(c *Config, n *podnet.Network) (sandbox.Driver, error) {
	supervisor := []string{filepath.Join(c.Bin, "coffer-node"), "supervise"}
	simHW := filepath.Join(c.Bin, "coffer-simhw")
	if h.platform == nil {
		return libos.New(libos.Options{
			CacheDir: c.Cache, Supervisor: supervisor, SimHW: simHW, Parent: os.Getpid(), BootTimeout: bootTimeout, Network: h.netns,
		})
	}
	network := &vmm.Network{}
	for _, i := range n.Interfaces {
		network.Taps = append(network.Taps, vmm.Tap{File: i.Tap, MAC: i.MAC})
	}
	return vmm.New(h.platform, vmm.Options{
		CacheDir: c.Cache, Supervisor: supervisor, SimHW: simHW, Parent: os.Getpid(), BootTimeout: bootTimeout, Network: network,
	})
}
