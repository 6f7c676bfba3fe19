package spec

import (
	"strings"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/owner/pod"
)

// defaultPath is the PATH of a container whose image sets none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// env merges the environment in containerd's order: PATH, HOSTNAME and TERM,
// then the image's ENV, then the pod's. The policy carries a Secret's value as
// a hash; the plan keeps the value for the request.
func (b *builder) env(c pod.Container, proc *pod.ContainerProcess, cfg *manifest.ContainerConfig) []podpolicy.EnvVar {
	order := []string{}
	vars := map[string]pod.Var{}
	set := func(v pod.Var) {
		if _, ok := vars[v.Name]; !ok {
			order = append(order, v.Name)
		}
		vars[v.Name] = v
	}
	set(pod.Var{Name: "PATH", Value: defaultPath})
	set(pod.Var{Name: "HOSTNAME", Value: b.pod.HostName()})
	if c.TTY {
		set(pod.Var{Name: "TERM", Value: "xterm"})
	}
	for _, kv := range cfg.Env {
		if name, value, ok := strings.Cut(kv, "="); ok && name != "" {
			set(pod.Var{Name: name, Value: value})
		}
	}
	for _, v := range proc.Env {
		set(v)
	}
	var out []podpolicy.EnvVar
	var full []string
	for _, name := range order {
		v := vars[name]
		if v.From != "" {
			out = append(out, podpolicy.EnvVar{Name: name, From: v.From})
			continue
		}
		full = append(full, name+"="+v.Value)
		if !v.Secret {
			out = append(out, podpolicy.EnvVar{Name: name, Value: &v.Value})
			continue
		}
		if podpolicy.LoaderVariable(name) {
			b.problem(c.Path+".env", "%s decides what code a program loads, so its value must stand in the policy: it cannot come from a Secret", name)
		}
		out = append(out, podpolicy.EnvVar{Name: name, SHA256: hexSum([]byte(v.Value))})
	}
	b.plan.env = append(b.plan.env, full)
	return out
}
