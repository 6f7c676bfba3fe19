// Package pod reads Kubernetes Pod manifests strictly: what Coffer cannot do
// exactly as Kubernetes says is an error that names path and reason, before
// anything starts. Nothing is dropped in silence.
//
// It takes the Kubernetes API types (k8s.io/api/core/v1) as the definition of
// what fields exist, and the table in fields.go for what each means here;
// docs/kubernetes.md's support table is made from it.
//
// Invariants: a field that the table does not name is an error; all problems
// are reported at once, sorted by path; values of Secrets appear in no error.
//
// Trust zone: owner. The manifest is the owner's own file; its size and depth
// are bounded nevertheless.
package pod

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// MaxSize is the largest manifest file, in bytes.
const MaxSize = 8 << 20

// Pod is one pod with the objects it refers to, checked and with Kubernetes'
// defaults filled in.
type Pod struct {
	*corev1.Pod
	ConfigMaps map[string]*corev1.ConfigMap // by name, of the pod's namespace
	Secrets    map[string]*corev1.Secret
	// Notes name what was accepted without effect, "path: reason", sorted.
	Notes []string
	// Cluster names what only a cluster does for the pod: coffer run cannot.
	Cluster []Problem
	// Unsealable names what a cluster changes before a guest sees it, so that no policy
	// can fix it: coffer seal refuses it.
	Unsealable []Problem
	// SealNotes name what holds for the files at hand and may not for the cluster,
	// "path: reason", sorted.
	SealNotes []string
	// Source is the manifest as it was read.
	Source []byte
}

// FullName gives namespace/name.
func (p *Pod) FullName() string { return p.Namespace + "/" + p.Name }

// HostName gives the pod's host name: spec.hostname, or the name cut to 63
// characters, as the kubelet does.
func (p *Pod) HostName() string {
	if p.Spec.Hostname != "" {
		return p.Spec.Hostname
	}
	name := p.Name
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

// Volume gives the volume of that name; nil if there is none.
func (p *Pod) Volume(name string) *corev1.Volume {
	for i := range p.Spec.Volumes {
		if p.Spec.Volumes[i].Name == name {
			return &p.Spec.Volumes[i]
		}
	}
	return nil
}

// All gives all containers, init containers first, with their paths.
func (p *Pod) All() []Container {
	var out []Container
	for i := range p.Spec.InitContainers {
		out = append(out, Container{&p.Spec.InitContainers[i], fmt.Sprintf("spec.initContainers[%d]", i), true})
	}
	for i := range p.Spec.Containers {
		out = append(out, Container{&p.Spec.Containers[i], fmt.Sprintf("spec.containers[%d]", i), false})
	}
	return out
}

// Container is a container of a pod and where it stands.
type Container struct {
	*corev1.Container
	Path string
	Init bool
}

// Problem is one thing wrong with a manifest.
type Problem struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

func (p Problem) String() string {
	if p.Path == "" {
		return p.Reason
	}
	return p.Path + ": " + p.Reason
}

// Error holds every problem of a manifest.
type Error struct{ Problems []Problem }

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	if len(lines) == 1 {
		return lines[0]
	}
	return fmt.Sprintf("%d problems:\n  %s", len(lines), strings.Join(lines, "\n  "))
}

// problems collects problems and notes.
type problems struct {
	list        []Problem
	notes       []string
	cluster     []Problem
	unsealable  []Problem
	sealNotes   []string
	noNamespace bool // the manifest names none
}

func (ps *problems) add(path, format string, args ...any) {
	ps.list = append(ps.list, Problem{path, fmt.Sprintf(format, args...)})
}

// onCluster notes what only a cluster does for the pod.
func (ps *problems) onCluster(path, format string, args ...any) {
	p := Problem{path, fmt.Sprintf(format, args...)}
	if !slices.Contains(ps.cluster, p) {
		ps.cluster = append(ps.cluster, p)
	}
}

// notSealed notes what a cluster changes before a guest sees it.
func (ps *problems) notSealed(path, format string, args ...any) {
	p := Problem{path, fmt.Sprintf(format, args...)}
	if !slices.Contains(ps.unsealable, p) {
		ps.unsealable = append(ps.unsealable, p)
	}
}

// sealNote notes what may be otherwise on the cluster.
func (ps *problems) sealNote(path, format string, args ...any) {
	ps.sealNotes = append(ps.sealNotes, path+": "+fmt.Sprintf(format, args...))
}

func (ps *problems) note(path, reason string) { ps.notes = append(ps.notes, path+": "+reason) }

// err gives the problems, sorted, each once.
func (ps *problems) err() error {
	if len(ps.list) == 0 {
		return nil
	}
	slices.SortFunc(ps.list, func(a, b Problem) int {
		if c := comparePaths(a.Path, b.Path); c != 0 {
			return c
		}
		return strings.Compare(a.Reason, b.Reason)
	})
	return &Error{slices.Compact(ps.list)}
}

// comparePaths orders list indices as numbers.
func comparePaths(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			if na != nb {
				return na - nb
			}
			if c := strings.Compare(a[:na], b[:nb]); c != 0 {
				return c
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
