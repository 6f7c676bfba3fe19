package podpolicy

import (
	"fmt"
	"slices"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
)

const (
	sigKILL = 9
	sigTERM = 15
)

func (e *Enforcer) judgeSignal(r *agentpb.SignalProcessRequest) (*Grant, *denial.Denial) {
	i, _, d := e.process(r.ContainerId, r.ExecId)
	if d != nil {
		return nil, d
	}
	allowed := i.spec.Signals
	if len(allowed) == 0 {
		allowed = []uint32{sigKILL, sigTERM}
	}
	if !slices.Contains(allowed, r.Signal) {
		return nil, deny(SignalDenied, i.claim+".signals", fmt.Sprint(r.Signal), fmt.Sprint(allowed))
	}
	return i.grant(r.ExecId), nil
}

func (e *Enforcer) judgeProcessQuery(id, execID string) (*Grant, *denial.Denial) {
	i, _, d := e.process(id, execID)
	if d != nil {
		return nil, d
	}
	return i.grant(execID), nil
}

// judgeRead never refuses the output of a known process: where the policy keeps
// it from the host, the grant says to drain, since the published shims take an
// error for a broken container.
func (e *Enforcer) judgeRead(r *agentpb.ReadStreamRequest) (*Grant, *denial.Denial) {
	i, x, d := e.process(r.ContainerId, r.ExecId)
	if d != nil {
		return nil, d
	}
	g := i.grant(r.ExecId)
	g.Drain = x == nil && !i.spec.Logs
	return g, nil
}

func (e *Enforcer) judgeWrite(r *agentpb.WriteStreamRequest) (*Grant, *denial.Denial) {
	i, x, d := e.process(r.ContainerId, r.ExecId)
	if d != nil {
		return nil, d
	}
	open := i.spec.Stdin
	if x != nil {
		open = x.stdin
	}
	if !open && len(r.Data) > 0 {
		return nil, deny(StdinDenied, i.claim+".stdin", fmt.Sprintf("%d bytes", len(r.Data)), "none")
	}
	return i.grant(r.ExecId), nil
}

func (e *Enforcer) judgeResize(r *agentpb.TtyWinResizeRequest) (*Grant, *denial.Denial) {
	i, x, d := e.process(r.ContainerId, r.ExecId)
	if d != nil {
		return nil, d
	}
	terminal := i.spec.Terminal
	if x != nil {
		terminal = x.tty
	}
	if !terminal || r.Row > 0xffff || r.Column > 0xffff {
		return nil, deny(RequestNotAllowed, i.claim+".terminal", fmt.Sprintf("%dx%d", r.Column, r.Row), "a size, where there is a terminal")
	}
	return i.grant(r.ExecId), nil
}

// judgeUpdate allows new CPU and memory limits where the policy does; nothing
// else of a container can be updated.
func (e *Enforcer) judgeUpdate(r *agentpb.UpdateContainerRequest) (*Grant, *denial.Denial) {
	i, d := e.find(r.ContainerId)
	if d != nil {
		return nil, d
	}
	if !e.policy.Sandbox.Resources {
		return nil, deny(RequestNotAllowed, i.claim+".resources", "an update", "sandbox.allow_resource_updates")
	}
	got := r.GetResources()
	want := &agentpb.UpdateContainerRequest{ContainerId: r.ContainerId, Resources: &agentpb.LinuxResources{}}
	if l := got.GetMemory().GetLimit(); l > 0 {
		want.Resources.Memory = &agentpb.LinuxMemory{Limit: l}
	}
	if c := got.GetCPU(); c != nil && c.Quota >= 0 {
		want.Resources.CPU = &agentpb.LinuxCPU{Shares: c.Shares, Quota: c.Quota, Period: c.Period}
	}
	if d := diff(i.claim+".resources", r.ProtoReflect(), want.ProtoReflect()); d != nil {
		d.Reason = ResourceMismatch
		return nil, d
	}
	return i.grant(""), nil
}

// judgeDiagnostics lets the host read the message that a container writes for
// it on its end, where it may read the container's output too.
func (e *Enforcer) judgeDiagnostics(r *agentpb.GetDiagnosticDataRequest) (*Grant, *denial.Denial) {
	i, d := e.find(r.ContainerId)
	if d != nil {
		return nil, d
	}
	if r.LogType != "termination_log" || !i.spec.Logs {
		return nil, deny(RequestNotAllowed, i.claim+".logs", r.LogType, "termination_log, where logs is true")
	}
	return i.grant(""), nil
}

// judgeVolumeStats answers only about directories of the policy's volumes.
func (e *Enforcer) judgeVolumeStats(r *agentpb.VolumeStatsRequest) (*Grant, *denial.Denial) {
	for i := range e.policy.Volumes {
		if v := &e.policy.Volumes[i]; !v.Block && r.VolumeGuestPath == v.Path() {
			return &Grant{Volumes: []*Volume{v}}, nil
		}
	}
	return nil, deny(PathDenied, "volume_guest_path", r.VolumeGuestPath, "the directory of a volume of the pod")
}
