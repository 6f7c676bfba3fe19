package pod

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Var is one variable of a container's environment as the manifest defines it.
type Var struct {
	Name, Value string
	Secret      bool // the value comes, in whole or in part, from a Secret
}

// String keeps secret values out of whatever prints a Var.
func (v Var) String() string {
	if v.Secret {
		return v.Name + "=(from a Secret)"
	}
	return v.Name + "=" + v.Value
}

// environment is an ordered set of variables; a later one replaces an earlier
// one in its place.
type environment struct {
	order []string
	vars  map[string]Var
}

func (e *environment) set(v Var) {
	if _, ok := e.vars[v.Name]; !ok {
		e.order = append(e.order, v.Name)
	}
	e.vars[v.Name] = v
}

// expand replaces $(NAME) in s and reports whether a secret value went in.
func (e *environment) expand(s string) (string, bool) {
	secret := false
	out := expand(s, func(name string) (string, bool) {
		v, ok := e.vars[name]
		secret = secret || ok && v.Secret
		return v.Value, ok
	})
	return out, secret
}

// env computes a container's environment in Kubernetes' order: envFrom first,
// then env, each value expanded with what stands before it.
func (p *Pod) env(c Container, ps *problems) *environment {
	e := &environment{vars: map[string]Var{}}
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
			value, secret := e.expand(v.Value)
			e.set(Var{v.Name, value, secret})
			continue
		}
		if v.Value != "" {
			ps.add(path+".valueFrom", "not beside value")
		}
		if value, secret, ok := p.valueFrom(c, v.ValueFrom, path+".valueFrom", ps); ok {
			e.set(Var{v.Name, value, secret})
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
			e.set(Var{from.Prefix + k, cm.Data[k], false})
		}
	default:
		ref := from.SecretRef
		s := p.Secrets[ref.Name]
		if s == nil {
			missing(ps, path+".secretRef", "Secret", ref.Name, ref.Optional)
			return
		}
		for _, k := range keys(s.Data) {
			e.set(Var{from.Prefix + k, string(s.Data[k]), true})
		}
	}
}

// missing reports an object that is not in the file, unless it is optional.
func missing(ps *problems, path, kind, name string, optional *bool) {
	if optional != nil && *optional {
		return
	}
	if name == "" {
		ps.add(path+".name", "missing")
		return
	}
	ps.add(path+".name", "%s %s is not in the file", kind, name)
}

// valueFrom gives the value of a source; ok is false where an optional source
// is absent or a problem was reported.
func (p *Pod) valueFrom(c Container, src *corev1.EnvVarSource, path string, ps *problems) (value string, secret, ok bool) {
	n := 0
	for _, set := range []bool{src.ConfigMapKeyRef != nil, src.SecretKeyRef != nil, src.FieldRef != nil, src.ResourceFieldRef != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
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
	expandAll := func(in []string) []string {
		var list []string
		for _, s := range in {
			v, secret := e.expand(s)
			out.SecretArgs = out.SecretArgs || secret
			list = append(list, v)
		}
		return list
	}
	out.Command, out.Args = expandAll(c.Command), expandAll(c.Args)
	return out
}
