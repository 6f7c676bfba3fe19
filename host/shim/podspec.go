package shim

import (
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// podSpec is what the node says of a pod, whichever way it says it: by a sandbox's
// bundle (task API) or by CreateSandbox (sandbox API).
type podSpec struct {
	annotations map[string]string
	uid         string // the kubelet's; "": not said
	// name and namespace are those of the pod's object; "": not said.
	name, namespace string
	netns           string // path of the network namespace; "": none
	cgroup          string // OCI cgroups path; "": none
	// resolv is the text of the pod's resolv.conf; where it is empty, resolvFile has it.
	resolv, resolvFile string
	limits             podLimits
}

// podLimits are those of a pod's containers together: bytes, and microseconds of CPU in
// a period. 0 or less is none.
type podLimits struct {
	memory, cpuQuota, cpuPeriod int64
}

// ofBundle reads a sandbox's bundle.
func ofBundle(s *specs.Spec) (*podSpec, error) {
	p := &podSpec{annotations: s.Annotations}
	for i := range s.Mounts {
		if s.Mounts[i].Destination == "/etc/resolv.conf" {
			p.resolvFile = s.Mounts[i].Source
		}
	}
	if l := s.Linux; l != nil {
		p.cgroup = l.CgroupsPath
		for _, ns := range l.Namespaces {
			if ns.Type == specs.NetworkNamespace {
				p.netns = ns.Path
			}
		}
	}
	if byCRIO(s.Annotations) {
		return p, p.ofCRIO()
	}
	p.uid, p.name, p.namespace = s.Annotations[criUID], s.Annotations[criPod], s.Annotations[criNamespace]
	for key, to := range map[string]*int64{criMemory: &p.limits.memory, criCPUQuota: &p.limits.cpuQuota, criCPUPeriod: &p.limits.cpuPeriod} {
		n, err := number(s.Annotations, key)
		if err != nil {
			return nil, err
		}
		*to = n
	}
	return p, nil
}

// ofCRIO reads what CRI-O says of a pod. The uid leads to the pod's volumes, and the name
// to its devices, so they are the kubelet's labels: CRI-O writes a pod's own annotations
// over all but those.
func (p *podSpec) ofCRIO() error {
	p.uid, p.name, p.namespace = p.annotations[crioUID], p.annotations[crioPod], p.annotations[crioNamespace]
	text := p.annotations[crioResources]
	if text == "" {
		return nil
	}
	var r struct {
		Memory    int64 `json:"memory_limit_in_bytes"`
		CPUQuota  int64 `json:"cpu_quota"`
		CPUPeriod int64 `json:"cpu_period"`
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return fmt.Errorf("annotation %s: %w", crioResources, err)
	}
	p.limits = podLimits{memory: r.Memory, cpuQuota: r.CPUQuota, cpuPeriod: r.CPUPeriod}
	return nil
}

// ofConfig reads the CRI's configuration of a pod. Names are made of it as containerd
// makes them for a sandbox with a bundle.
func ofConfig(c *criConfig, id, netns string) *podSpec {
	p := &podSpec{annotations: c.annotations, uid: c.uid, name: c.name, namespace: c.namespace, netns: netns, limits: c.limits, resolvFile: "/etc/resolv.conf"}
	switch base := path.Base(c.cgroupParent); {
	case c.cgroupParent == "":
	case strings.HasSuffix(base, ".slice"):
		p.cgroup = strings.Join([]string{base, "cri-containerd", id}, ":")
	default:
		p.cgroup = path.Join(c.cgroupParent, id)
	}
	if d := c.dns; d != nil {
		p.resolvFile = ""
		if len(d.searches) > 0 {
			p.resolv += "search " + strings.Join(d.searches, " ") + "\n"
		}
		for _, s := range d.servers {
			p.resolv += "nameserver " + s + "\n"
		}
		if len(d.options) > 0 {
			p.resolv += "options " + strings.Join(d.options, " ") + "\n"
		}
	}
	return p
}

// number reads an annotation; 0 if there is none.
func number(annotations map[string]string, key string) (int64, error) {
	s := annotations[key]
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < -1 || n > 1<<50 {
		return 0, fmt.Errorf("annotation %s: %.64q is no number in range", key, s)
	}
	return n, nil
}
