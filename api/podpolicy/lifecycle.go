package podpolicy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
)

func (e *Enforcer) judgeSandbox(r *agentpb.CreateSandboxRequest) (*Grant, *denial.Denial) {
	if !validID(r.SandboxId) {
		return nil, deny(BadID, "sandbox.sandbox_id", r.SandboxId, "[a-zA-Z0-9][a-zA-Z0-9_-]*")
	}
	if d := e.policy.judgeDNS(r.Dns); d != nil {
		return nil, d
	}
	want := e.policy.CreateSandboxRequest(r.SandboxId, r.Dns)
	if d := diff("sandbox", r.ProtoReflect(), want.ProtoReflect()); d != nil {
		return nil, d
	}
	if e.sandbox != sandboxNone {
		return nil, deny(Replayed, "sandbox", "a second CreateSandbox", "one")
	}
	e.sandbox = sandboxCreating
	id := r.SandboxId
	return &Grant{
		commit:   e.locked(func() { e.sandbox, e.sandboxID = sandboxReady, id }),
		rollback: e.locked(func() { e.sandbox = sandboxNone }),
	}, nil
}

// judgeDestroy always says yes: the host can end the VM in any case.
func (e *Enforcer) judgeDestroy() (*Grant, *denial.Denial) {
	return &Grant{commit: e.locked(func() { e.sandbox = sandboxDestroyed })}, nil
}

func (e *Enforcer) judgeCreateContainer(r *agentpb.CreateContainerRequest) (*Grant, *denial.Denial) {
	if !validID(r.ContainerId) || r.ContainerId == e.sandboxID {
		return nil, deny(BadID, "container_id", r.ContainerId, "[a-zA-Z0-9][a-zA-Z0-9_-]*, no name of the agent's own")
	}
	name := r.GetOCI().GetAnnotations()[AnnotationName]
	s := e.slots[name]
	if s == nil {
		return nil, deny(ContainerUndeclared, fmt.Sprintf("containers[%s]", clip(name)), orMissing(name), "one of "+strings.Join(sortedKeys(e.slots), ", "))
	}
	env, d := e.policy.judgeCreate(r, s.spec, s.claim, e.sandboxID)
	if d != nil {
		return nil, d
	}
	if e.usedIDs[r.ContainerId] {
		return nil, deny(Replayed, "container_id", r.ContainerId, "an id that was never used before")
	}
	if len(e.usedIDs) >= maxIDs {
		return nil, deny(TooMany, "container_id", fmt.Sprint(len(e.usedIDs)), fmt.Sprintf("at most %d containers", maxIDs))
	}
	if d := e.mayCreate(s); d != nil {
		return nil, d
	}
	volumes := e.policy.VolumesOf(s.spec)
	for _, v := range volumes {
		if d := e.complete(v); d != nil {
			return nil, d
		}
	}
	previous := s.current
	i := &instance{slot: s, id: r.ContainerId, phase: creating, execs: map[string]*execProcess{}}
	s.current = i
	e.instances[i.id] = i
	e.usedIDs[i.id] = true
	e.net.sealed = true
	g := i.grant("")
	g.Env, g.Args, g.Volumes = env, s.spec.Args, volumes
	g.Terminal, g.Stdin = s.spec.Terminal, s.spec.Stdin
	g.commit = e.locked(func() { i.phase = created })
	g.rollback = e.locked(func() {
		delete(e.instances, i.id)
		delete(e.usedIDs, i.id)
		if s.current == i {
			s.current = nil
			if previous != nil && e.instances[previous.id] == previous {
				s.current = previous
			}
		}
	})
	return g, nil
}

func (e *Enforcer) judgeStart(r *agentpb.StartContainerRequest) (*Grant, *denial.Denial) {
	i, d := e.find(r.ContainerId)
	if d != nil {
		return nil, d
	}
	if i.phase != created || i.removing {
		return nil, deny(Replayed, i.claim, "a second start", "one")
	}
	wasStarted, wasStatus := i.started, i.status
	i.phase, i.started, i.status = starting, true, 0
	g := i.grant("")
	g.commit = e.locked(func() {
		i.phase = running
		if i.ended {
			i.phase = exited
		}
	})
	g.rollback = e.locked(func() {
		if i.ended {
			i.phase = exited // it did run
			return
		}
		i.phase, i.started, i.status = created, wasStarted, wasStatus
	})
	return g, nil
}

func (e *Enforcer) judgeRemove(r *agentpb.RemoveContainerRequest) (*Grant, *denial.Denial) {
	i, d := e.find(r.ContainerId)
	if d != nil {
		return nil, d
	}
	if i.removing || i.phase == starting {
		return nil, deny(OutOfOrder, i.claim, "a removal while another call works on it", "one call at a time")
	}
	i.removing = true
	g := i.grant("")
	g.commit = e.locked(func() {
		if i.phase == running && i.current == i {
			i.status = 128 + 9 // removed alive: killed
		}
		delete(e.instances, i.id)
		if i.current == i {
			i.current = nil
		}
	})
	g.rollback = e.locked(func() { i.removing = false })
	return g, nil
}

func (e *Enforcer) judgeExecProcess(r *agentpb.ExecProcessRequest) (*Grant, *denial.Denial) {
	i, d := e.find(r.ContainerId)
	if d != nil {
		return nil, d
	}
	args := r.GetProcess().GetArgs()
	tty := r.GetProcess().GetTerminal()
	n := slices.IndexFunc(i.spec.Exec, func(x Exec) bool {
		return x.Any && len(args) > 0 || !x.Any && slices.Equal(x.Args, args) && (!tty || x.TTY)
	})
	if n < 0 {
		expected := "no exec"
		if len(i.spec.Exec) > 0 {
			expected = fmt.Sprintf("one of %d declared commands", len(i.spec.Exec))
		}
		return nil, deny(ExecDenied, i.claim+".exec", fmt.Sprintf("%q", args), expected)
	}
	rule := &i.spec.Exec[n]
	if !execIDRE.MatchString(r.ExecId) || r.ExecId == i.id {
		return nil, deny(BadID, i.claim+".exec_id", r.ExecId, "[a-zA-Z0-9][a-zA-Z0-9_.-]*, not the container's id")
	}
	env, d := e.policy.judgeExec(r, i.spec, rule, i.claim)
	if d != nil {
		return nil, d
	}
	if i.phase != running || i.removing {
		return nil, deny(OutOfOrder, i.claim+".exec", "requested now", "only while the container runs")
	}
	if i.execs[r.ExecId] != nil {
		return nil, deny(Replayed, i.claim+".exec_id", r.ExecId, "an id that was never used before")
	}
	if len(i.execs) >= maxIDs {
		return nil, deny(TooMany, i.claim+".exec_id", fmt.Sprint(len(i.execs)), fmt.Sprintf("at most %d processes", maxIDs))
	}
	x := &execProcess{tty: tty, stdin: rule.Stdin || rule.Any || tty}
	i.execs[r.ExecId] = x
	id := r.ExecId
	g := i.grant(id)
	g.Env, g.Args, g.Terminal, g.Stdin = env, slices.Clone(args), tty, x.stdin
	g.commit = e.locked(func() { x.ready = true })
	g.rollback = e.locked(func() { delete(i.execs, id) })
	return g, nil
}

func (e *Enforcer) locked(f func()) func() {
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		f()
	}
}
