package shim

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
)

// annotationPrefix is that of the published annotations by which a pod's author speaks
// to the runtime.
const annotationPrefix = "io.katacontainers."

// taken are those that have an effect.
var taken = []string{initdata.AnnotationKey, launch.AnnotationMemory, launch.AnnotationVCPUs}

// passedOver are published ones that ask for what is so in any case, or for what cannot
// matter here: manifests that have them run unchanged.
var passedOver = map[string]string{
	"io.katacontainers.config.runtime.experimental_force_guest_pull": "images are always pulled by the guest",
	"io.katacontainers.config.runtime.create_container_timeout":      "the kubelet's runtimeRequestTimeout counts",
	"io.katacontainers.config.runtime.sandbox_cgroup_only":           "the TEE's processes are always in the pod's control group, unless the handler's file says otherwise",
	"io.katacontainers.config.runtime.disable_new_netns":             "the pod's network namespace is always the one that CNI made",
}

// refusedFor says of families of published ones why they are refused.
var refusedFor = []struct{ prefix, why string }{
	{"io.katacontainers.config.hypervisor.", "what the machine is made of is the node's and the measurement's to say, not a pod's author's"},
	{"io.katacontainers.config.runtime.", "how the runtime works is said in the handler's file, not by a pod's author"},
	{"io.katacontainers.config.agent.policy", "the pod's policy is in its initdata, which is measured: seal it with coffer seal"},
	{"io.katacontainers.config.agent.", "what the agent does is measured, and no pod's author's to say"},
	{"io.katacontainers.container.resource.", "a pod in a TEE has no swap"},
}

// checkAnnotations refuses a pod that asks the runtime for something that it does not
// do: its author would believe that it did, or has the host given arguments.
func checkAnnotations(annotations map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !strings.HasPrefix(key, annotationPrefix) || slices.Contains(taken, key) || passedOver[key] != "" {
			continue
		}
		why := "it is none that Coffer knows"
		for _, r := range refusedFor {
			if strings.HasPrefix(key, r.prefix) {
				why = r.why
				break
			}
		}
		return fmt.Errorf("annotation %.128q is refused: %s (docs/kubernetes.md, annotations)", key, why)
	}
	return nil
}
