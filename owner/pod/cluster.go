package pod

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Sidecar reports whether c is an init container that stays.
func (c Container) Sidecar() bool {
	return c.Init && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// Commands gives the command lines that the kubelet starts in c by itself: of
// probes, with $(VAR) as the kubelet expands it there, and of hooks, as written;
// each once.
func (c Container) Commands() [][]string {
	var out [][]string
	add := func(command []string) {
		if len(command) > 0 && !slices.ContainsFunc(out, func(x []string) bool { return slices.Equal(x, command) }) {
			out = append(out, command)
		}
	}
	for _, p := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		if p != nil && p.Exec != nil {
			add(c.expandStatic(p.Exec.Command))
		}
	}
	if l := c.Lifecycle; l != nil {
		for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
			if h != nil && h.Exec != nil {
				add(h.Exec.Command)
			}
		}
	}
	return out
}

// expandStatic replaces $(NAME) as a kubelet does in a probe's command: by
// env[].value as it is written, which is empty beside valueFrom. It knows neither
// envFrom nor services there.
func (c Container) expandStatic(command []string) []string {
	static := map[string]string{}
	for _, v := range c.Env {
		static[v.Name] = v.Value
	}
	var out []string
	for _, s := range command {
		out = append(out, expand(s, func(name string) (string, bool) { v, ok := static[name]; return v, ok }))
	}
	return out
}

// checkCluster judges what a kubelet does for c.
func (p *Pod) checkCluster(c Container, ps *problems) {
	if r := c.RestartPolicy; r != nil {
		switch {
		case !c.Init:
			ps.add(c.Path+".restartPolicy", "only an init container has one: it makes it a sidecar")
		case *r != corev1.ContainerRestartPolicyAlways:
			ps.add(c.Path+".restartPolicy", "%q is not Always", *r)
		}
	}
	if m := c.TerminationMessagePath; m != "" && path.Clean(m) != corev1.TerminationMessagePathDefault {
		at := c.Path + ".terminationMessagePath"
		if !path.IsAbs(m) || strings.ContainsAny(m, ":\x00") || strings.Contains(m, "/..") {
			ps.add(at, "%q is not an absolute path", m)
		}
	}
	if m := c.TerminationMessagePolicy; m != "" {
		oneOf(ps, c.Path+".terminationMessagePolicy", string(m), string(corev1.TerminationMessageReadFile), string(corev1.TerminationMessageFallbackToLogsOnError))
	}
	probed := c.StartupProbe != nil || c.LivenessProbe != nil || c.ReadinessProbe != nil || c.Lifecycle != nil
	if probed && c.Init && !c.Sidecar() {
		ps.add(c.Path, "an init container has no probes and hooks, unless it is a sidecar")
	}
	if l := c.Lifecycle; l != nil && l.StopSignal != nil {
		ps.add(c.Path+".lifecycle.stopSignal", notYet)
	}
	for i, port := range c.Ports {
		if port.HostPort < 0 || port.HostPort > 65535 {
			ps.add(fmt.Sprintf("%s.ports[%d].hostPort", c.Path, i), "%d is not between 1 and 65535", port.HostPort)
		}
	}
}
