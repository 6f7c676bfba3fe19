package pod

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/cofferproject/coffer/api/initdata"
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
		return mapLines(p.Labels), true
	case f == "metadata.annotations" && whole:
		return mapLines(p.Annotations), true
	case strings.HasPrefix(f, "metadata.labels['") && strings.HasSuffix(f, "']"):
		return p.Labels[f[len("metadata.labels['"):len(f)-2]], true
	case strings.HasPrefix(f, "metadata.annotations['") && strings.HasSuffix(f, "']"):
		return p.Annotations[f[len("metadata.annotations['"):len(f)-2]], true
	case strings.HasPrefix(f, "status.") || f == "spec.nodeName":
		ps.add(path+".fieldPath", "%s is the host's word, which the policy cannot fix", f)
	default:
		ps.add(path+".fieldPath", "%q is unknown", f)
	}
	return "", false
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
