package pod

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/cofferproject/coffer/api/podpolicy"
)

// Var is one variable of a container's environment as the manifest defines it.
type Var struct {
	Name, Value string
	Secret      bool // the value comes, in whole or in part, from a Secret
	// From, if set, says which word of the cluster the value is, as podpolicy.EnvVar
	// does; Value is empty then.
	From string
}

// String keeps secret values out of whatever prints a Var.
func (v Var) String() string {
	if v.Secret {
		return v.Name + "=(from a Secret)"
	}
	if v.From != "" {
		return v.Name + "=(" + v.From + ", from the cluster)"
	}
	return v.Name + "=" + v.Value
}

// environment is an ordered set of variables; a later one replaces an earlier
// one in its place.
type environment struct {
	order []string
	vars  map[string]Var
	links string // which services a kubelet tells of, as podpolicy.Container.ServiceLinks
}

func (e *environment) set(v Var) {
	if _, ok := e.vars[v.Name]; !ok {
		e.order = append(e.order, v.Name)
	}
	e.vars[v.Name] = v
}

// linked reports whether a kubelet may know name by a service.
func (e *environment) linked(name string) bool {
	return podpolicy.ServiceLinkVariable(name) && (e.links == podpolicy.ServiceLinksAll || strings.HasPrefix(name, "KUBERNETES_"))
}

// expand replaces $(NAME) in s, which stands at path, and reports whether a secret
// value went in. A value that only the cluster knows cannot.
func (e *environment) expand(s, path string, ps *problems) (string, bool) {
	secret := false
	out := expand(s, func(name string) (string, bool) {
		v, ok := e.vars[name]
		switch {
		case v.From != "":
			ps.add(path, "$(%s) is the cluster's word, which the policy cannot fix inside another text: let the program read the variable", name)
		case !ok && e.linked(name):
			ps.add(path, "$(%s) is a service's variable, which a kubelet puts in here and the policy cannot fix inside another text: let the program read the variable, or write the address ($$(%s) keeps the text)", name, name)
		}
		secret = secret || ok && v.Secret
		return v.Value, ok
	})
	return out, secret
}

// ServiceLinks says of which services a kubelet may tell the pod's containers, as
// podpolicy.Container.ServiceLinks.
func (p *Pod) ServiceLinks() string {
	if l := p.Spec.EnableServiceLinks; l != nil && !*l {
		return podpolicy.ServiceLinksKubernetes
	}
	return podpolicy.ServiceLinksAll
}

// env computes a container's environment in Kubernetes' order: envFrom first,
// then env, each value expanded with what stands before it.
func (p *Pod) env(c Container, ps *problems) *environment {
	e := &environment{vars: map[string]Var{}, links: p.ServiceLinks()}
	for i, from := range c.EnvFrom {
		p.envFrom(from, fmt.Sprintf("%s.envFrom[%d]", c.Path, i), e, ps)
	}
	for i, v := range c.Env {
		path := fmt.Sprintf("%s.env[%d]", c.Path, i)
		if v.Name == "" || !printableRE.MatchString(v.Name) || strings.Contains(v.Name, "=") {
			ps.add(path+".name", "%q is no name of a variable", v.Name)
			continue
		}
		if strings.ContainsRune(v.Value, 0) {
			ps.add(path+".value", "holds a NUL")
		}
		if v.ValueFrom == nil {
			value, secret := e.expand(v.Value, path+".value", ps)
			e.set(Var{Name: v.Name, Value: value, Secret: secret})
			continue
		}
		if v.Value != "" {
			ps.add(path+".valueFrom", "not beside value")
		}
		if f := v.ValueFrom.FieldRef; f != nil && hostWords[f.FieldPath] != "" && sources(v.ValueFrom) == 1 && (p.UID == "" || f.FieldPath != "metadata.uid") {
			p.hostWord(v, f, path, e, ps)
			continue
		}
		if value, secret, ok := p.valueFrom(c, v.ValueFrom, path+".valueFrom", ps); ok {
			e.set(Var{Name: v.Name, Value: value, Secret: secret})
		}
	}
	return e
}

func (p *Pod) envFrom(from corev1.EnvFromSource, path string, e *environment, ps *problems) {
	switch {
	case (from.ConfigMapRef == nil) == (from.SecretRef == nil):
		ps.add(path, "one of configMapRef and secretRef belongs here")
	case from.ConfigMapRef != nil:
		ref := from.ConfigMapRef
		cm := p.ConfigMaps[ref.Name]
		if cm == nil {
			missing(ps, path+".configMapRef", "ConfigMap", ref.Name, ref.Optional)
			return
		}
		for _, k := range keys(cm.Data) {
			e.set(Var{Name: from.Prefix + k, Value: cm.Data[k]})
		}
	default:
		ref := from.SecretRef
		s := p.Secrets[ref.Name]
		if s == nil {
			missing(ps, path+".secretRef", "Secret", ref.Name, ref.Optional)
			return
		}
		for _, k := range keys(s.Data) {
			e.set(Var{Name: from.Prefix + k, Value: string(s.Data[k]), Secret: true})
		}
	}
}

// missing reports an object that is not in the file; if it is optional, as what the
// policy takes it for.
func missing(ps *problems, path, kind, name string, optional *bool) {
	if optional != nil && *optional {
		ps.sealNote(path, "%s %s is not in the file, and sealed as absent: where the cluster has it, the guest denies the pod", kind, name)
		return
	}
	if name == "" {
		ps.add(path+".name", "missing")
		return
	}
	ps.add(path+".name", "%s %s is not in the file", kind, name)
}

// hostWords are the fields that only the cluster knows, and what the policy calls them.
// A uid that the manifest has is the manifest's.
var hostWords = map[string]string{
	"metadata.uid": podpolicy.FromPodUID, "spec.nodeName": podpolicy.FromNodeName, "status.podIP": podpolicy.FromPodIP,
	"status.podIPs": podpolicy.FromPodIPs, "status.hostIP": podpolicy.FromHostIP, "status.hostIPs": podpolicy.FromHostIPs,
}

// hostWord takes a variable whose value is the cluster's word.
func (p *Pod) hostWord(v corev1.EnvVar, ref *corev1.ObjectFieldSelector, path string, e *environment, ps *problems) {
	path += ".valueFrom.fieldRef.fieldPath"
	switch {
	case ref.APIVersion != "" && ref.APIVersion != "v1":
		ps.add(path, "apiVersion %q is not v1", ref.APIVersion)
	case podpolicy.LoaderVariable(v.Name):
		ps.add(path, "%s decides what code a program loads: it cannot be the cluster's word", v.Name)
	default:
		ps.onCluster(path, "%s is the cluster's word, and coffer run has no cluster", ref.FieldPath)
		e.set(Var{Name: v.Name, From: hostWords[ref.FieldPath]})
	}
}

// sources counts what a variable's value comes from.
func sources(src *corev1.EnvVarSource) int {
	n := 0
	for _, set := range []bool{src.ConfigMapKeyRef != nil, src.SecretKeyRef != nil, src.FieldRef != nil, src.ResourceFieldRef != nil} {
		if set {
			n++
		}
	}
	return n
}

// valueFrom gives the value of a source; ok is false where an optional source
// is absent or a problem was reported.
func (p *Pod) valueFrom(c Container, src *corev1.EnvVarSource, path string, ps *problems) (value string, secret, ok bool) {
	if sources(src) != 1 {
		ps.add(path, "exactly one source belongs here")
		return "", false, false
	}
	switch {
	case src.ConfigMapKeyRef != nil:
		ref := src.ConfigMapKeyRef
		if cm := p.ConfigMaps[ref.Name]; cm != nil {
			if v, found := cm.Data[ref.Key]; found {
				return v, false, true
			}
			missingKey(ps, path+".configMapKeyRef", "ConfigMap "+ref.Name, ref.Key, ref.Optional)
		} else {
			missing(ps, path+".configMapKeyRef", "ConfigMap", ref.Name, ref.Optional)
		}
	case src.SecretKeyRef != nil:
		ref := src.SecretKeyRef
		if s := p.Secrets[ref.Name]; s != nil {
			if v, found := s.Data[ref.Key]; found {
				if strings.ContainsRune(string(v), 0) {
					ps.add(path+".secretKeyRef.key", "the value holds a NUL")
				}
				return string(v), true, true
			}
			missingKey(ps, path+".secretKeyRef", "Secret "+ref.Name, ref.Key, ref.Optional)
		} else {
			missing(ps, path+".secretKeyRef", "Secret", ref.Name, ref.Optional)
		}
	case src.FieldRef != nil:
		value, ok = p.fieldRef(src.FieldRef, path+".fieldRef", false, ps)
		return value, false, ok
	default:
		value, ok = p.resourceRef(c, src.ResourceFieldRef, path+".resourceFieldRef", ps)
		return value, false, ok
	}
	return "", false, false
}

func missingKey(ps *problems, path, object, key string, optional *bool) {
	if optional == nil || !*optional {
		ps.add(path+".key", "%s has no key %q", object, key)
	}
}

// ContainerProcess is what a container runs, by the manifest alone.
type ContainerProcess struct {
	Command []string // nil: the image's ENTRYPOINT
	Args    []string // nil: the image's CMD, if Command is nil too
	Env     []Var    // beside the image's ENV
	// SecretArgs tells that Command or Args hold a value of a Secret.
	SecretArgs bool
}

// Process computes command, arguments and environment of a container of p.All.
// A pod from Parse gives no error.
func (p *Pod) Process(c Container) (*ContainerProcess, error) {
	ps := new(problems)
	out := p.process(c, ps)
	return out, ps.err()
}

func (p *Pod) process(c Container, ps *problems) *ContainerProcess {
	e := p.env(c, ps)
	out := &ContainerProcess{}
	for _, name := range e.order {
		out.Env = append(out.Env, e.vars[name])
	}
	expandAll := func(in []string, field string) []string {
		var list []string
		for i, s := range in {
			v, secret := e.expand(s, fmt.Sprintf("%s.%s[%d]", c.Path, field, i), ps)
			out.SecretArgs = out.SecretArgs || secret
			list = append(list, v)
		}
		return list
	}
	out.Command, out.Args = expandAll(c.Command, "command"), expandAll(c.Args, "args")
	return out
}
