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
// probes and hooks, each once.
func (c Container) Commands() [][]string {
	var out [][]string
	add := func(e *corev1.ExecAction) {
		if e != nil && len(e.Command) > 0 && !slices.ContainsFunc(out, func(x []string) bool { return slices.Equal(x, e.Command) }) {
			out = append(out, e.Command)
		}
	}
	for _, p := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		if p != nil {
			add(p.Exec)
		}
	}
	if l := c.Lifecycle; l != nil {
		for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
			if h != nil {
				add(h.Exec)
			}
		}
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
