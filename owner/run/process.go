package run

import (
	"errors"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/libos"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/owner/spec"
)

// processSpec says what to launch where the pod is in a process: the library OS and
// the agent beside this program. There is no guest image.
func processSpec(o *PodOptions, memoryMiB, vcpus int) (*launch.Spec, error) {
	if o.Debug {
		return nil, errors.New("--debug-image: a process TEE has no guest image, and its console talks already")
	}
	runtime, err := Binary(libos.RuntimeProgram)
	if err != nil {
		return nil, err
	}
	agent, err := Binary(libos.AgentProgram)
	if err != nil {
		return nil, err
	}
	return libos.NewSpec(o.TEE, runtime, agent, memoryMiB, vcpus), nil
}

// processPrograms gives the programs of process TEEs of that wire name that are at
// hand.
func processPrograms(tee string) []string {
	if tee != launch.SGXSim.Wire() {
		return nil
	}
	var out []string
	for _, name := range []string{libos.RuntimeProgram, libos.AgentProgram} {
		if p, err := Binary(name); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// platformFor loads the platform of TEEs that have one.
func platformFor(o *PodOptions) (*platform.Platform, error) {
	if o.TEE.Process() {
		return nil, nil
	}
	return loadPlatform(o.Platform)
}

// checkProcess refuses what a library OS cannot keep, while there is somebody to
// tell; the guest refuses it too.
func checkProcess(o *PodOptions, plan *spec.Plan) error {
	if !o.TEE.Process() {
		return nil
	}
	for _, c := range plan.All() {
		r := c.Policy().Resources
		switch {
		case r.MemoryBytes > 0:
			return fmt.Errorf("container %s: resources.limits.memory: %s runs in a library OS, which cannot hold a container to it; leave it out, or use a TEE with a VM", c.Name, o.TEE)
		case r.CPUQuota > 0:
			return fmt.Errorf("container %s: resources.limits.cpu: %s runs in a library OS, which cannot hold a container to it; leave it out, or use a TEE with a VM", c.Name, o.TEE)
		}
	}
	return nil
}
