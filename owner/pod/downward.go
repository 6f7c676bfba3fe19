package pod

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
)

// fieldRef gives a field of the pod itself. whole allows the maps, which only
// files can hold.
func (p *Pod) fieldRef(ref *corev1.ObjectFieldSelector, path string, whole bool, ps *problems) (string, bool) {
	if ref.APIVersion != "" && ref.APIVersion != "v1" {
		ps.add(path+".apiVersion", "%q is not v1", ref.APIVersion)
		return "", false
	}
	switch f := ref.FieldPath; {
	case f == "metadata.name":
		return p.Name, true
	case f == "metadata.namespace":
		if ps.noNamespace {
			ps.sealNote(path+".fieldPath", "the manifest names no namespace, and is sealed for default: applied to another one, the guest denies the pod")
		}
		return p.Namespace, true
	case f == "metadata.uid" && p.UID != "":
		return string(p.UID), true
	case f == "metadata.uid":
		ps.add(path+".fieldPath", "a pod without a cluster has no uid: set metadata.uid")
	case f == "spec.serviceAccountName":
		if p.Spec.ServiceAccountName == "" {
			return "default", true
		}
		return p.Spec.ServiceAccountName, true
	case f == "metadata.labels" && whole:
		ps.sealNote(path+".fieldPath", "since Kubernetes 1.35 a cluster adds zone and region of nodes that have them (%s): the guest then denies the file; name single ones, metadata.labels['KEY']", strings.Join(topologyLabels, ", "))
		return mapLines(p.Labels), true
	case f == "metadata.annotations" && whole:
		ps.notSealed(path+".fieldPath", "a kubelet adds to them: name single ones, metadata.annotations['KEY']")
		return mapLines(p.Annotations), true
	case strings.HasPrefix(f, "metadata.labels['") && strings.HasSuffix(f, "']"):
		return p.label(f[len("metadata.labels['"):len(f)-2], path+".fieldPath", ps), true
	case strings.HasPrefix(f, "metadata.annotations['") && strings.HasSuffix(f, "']"):
		key := f[len("metadata.annotations['") : len(f)-2]
		if slices.Contains(changedAnnotations, key) {
			ps.notSealed(path+".fieldPath", "annotation %s is set after the policy is written", key)
		}
		return p.Annotations[key], true
	case strings.HasPrefix(f, "status.") || f == "spec.nodeName":
		ps.add(path+".fieldPath", "%s is the host's word, which the policy cannot fix", f)
	default:
		ps.add(path+".fieldPath", "%q is unknown", f)
	}
	return "", false
}

// topologyLabels are what the API server copies from the node to a pod that it binds.
var topologyLabels = []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion}

// changedAnnotations are set by sealing or by a kubelet, whatever the manifest says.
var changedAnnotations = []string{initdata.AnnotationKey, launch.AnnotationVCPUs, launch.AnnotationMemory, "kubernetes.io/config.source", "kubernetes.io/config.seen"}

// label gives one of the pod's labels.
func (p *Pod) label(key, path string, ps *problems) string {
	value, ok := p.Labels[key]
	switch {
	case !slices.Contains(topologyLabels, key):
	case ok:
		ps.sealNote(path, "since Kubernetes 1.35 a node that has the label %s overwrites the manifest's: the guest then denies the pod", key)
	default:
		ps.notSealed(path, "since Kubernetes 1.35 a cluster takes the label %s from the node, which the policy cannot fix", key)
	}
	return value
}

// mapLines is the downward API's form of a map.
func mapLines(m map[string]string) string {
	var lines []string
	for _, k := range keys(m) {
		if k == initdata.AnnotationKey {
			continue // it holds the hash of what stands here
		}
		lines = append(lines, fmt.Sprintf("%s=%q", k, m[k]))
	}
	return strings.Join(lines, "\n")
}

// resourceRef gives a limit or request of a container, in units of the divisor,
// rounded up.
func (p *Pod) resourceRef(self Container, ref *corev1.ResourceFieldSelector, path string, ps *problems) (string, bool) {
	c := self.Container
	if ref.ContainerName != "" {
		c = nil
		for _, other := range p.All() {
			if other.Name == ref.ContainerName {
				c = other.Container
			}
		}
	}
	if c == nil {
		ps.add(path+".containerName", "there is no container %q", ref.ContainerName)
		return "", false
	}
	which, name, _ := strings.Cut(ref.Resource, ".")
	var list corev1.ResourceList
	switch which {
	case "limits":
		list = c.Resources.Limits
	case "requests":
		list = c.Resources.Requests
	}
	if (which != "limits" && which != "requests") || (name != "cpu" && name != "memory") {
		ps.add(path+".resource", "%q is not limits or requests of cpu or memory", ref.Resource)
		return "", false
	}
	q, ok := list[corev1.ResourceName(name)]
	if !ok && which == "requests" {
		q, ok = c.Resources.Limits[corev1.ResourceName(name)] // a limit is the request where none is given
	}
	if !ok {
		ps.add(path+".resource", "the container does not set %s, and without a node it has no default", ref.Resource)
		return "", false
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == "cpu" {
		return ceilDiv(q.MilliValue(), divisor.MilliValue()), true
	}
	return ceilDiv(q.Value(), divisor.Value()), true
}

func ceilDiv(a, b int64) string {
	if b <= 0 {
		b = 1
	}
	return strconv.FormatInt(int64(math.Ceil(float64(a)/float64(b))), 10)
}
