package podpolicy

import (
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/denial"
)

// Enforcer judges every request of the host against the policy and the state of
// the sandbox. It is safe for concurrent use. A nil policy denies everything but
// harmless queries.
//
// Whatever the switch of judge does not name is denied, and so is every field
// that its case does not account for.
type Enforcer struct {
	policy *Policy

	mu        sync.Mutex
	sandbox   sandboxPhase
	sandboxID string
	slots     map[string]*slot     // by container name
	inits     []*slot              // in order
	instances map[string]*instance // by container id, until removed
	usedIDs   map[string]bool      // every container id ever granted and not rolled back
	files     map[string]*fileState
	net       network
}

// NewEnforcer makes an Enforcer for p, which must come from Parse or Validate
// (or be nil) and must not be changed afterwards.
func NewEnforcer(p *Policy) *Enforcer {
	e := &Enforcer{
		policy: p, slots: map[string]*slot{}, instances: map[string]*instance{}, usedIDs: map[string]bool{},
		files: map[string]*fileState{}, net: newNetwork(),
	}
	if p == nil {
		return e
	}
	for i := range p.InitContainers {
		c := &p.InitContainers[i]
		s := &slot{spec: c, init: true, index: i, claim: fmt.Sprintf("init_containers[%s]", c.Name)}
		e.slots[c.Name] = s
		e.inits = append(e.inits, s)
	}
	for i := range p.Containers {
		c := &p.Containers[i]
		e.slots[c.Name] = &slot{spec: c, claim: fmt.Sprintf("containers[%s]", c.Name)}
	}
	return e
}

// Authorize judges one request of grpc.AgentService. The error is a
// *denial.Denial. On a yes the caller must call Done on the grant.
func (e *Enforcer) Authorize(req proto.Message) (*Grant, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g, d := e.judge(req)
	if d != nil {
		return nil, d
	}
	return g, nil
}

func (e *Enforcer) judge(req proto.Message) (*Grant, *denial.Denial) {
	if req == nil || !req.ProtoReflect().IsValid() {
		return nil, deny(RequestNotAllowed, "request", "none", "a request")
	}
	m := req.ProtoReflect()
	name := string(m.Descriptor().Name())
	if d := denyUnknown(m, name); d != nil {
		return nil, d
	}
	switch r := req.(type) {
	case *agentpb.GuestDetailsRequest, *agentpb.GetOOMEventRequest, *agentpb.ListInterfacesRequest, *agentpb.ListRoutesRequest:
		return &Grant{}, nil // answers tell the host nothing that it does not know or decide
	case *agentpb.DestroySandboxRequest:
		return e.judgeDestroy()
	default:
		if e.policy == nil {
			return nil, deny(NoPolicy, name, "no pod policy in initdata", "one")
		}
		if e.sandbox == sandboxDestroyed {
			return nil, deny(OutOfOrder, name, "after DestroySandbox", "before")
		}
		return e.judgeGoverned(r, name)
	}
}

// judgeGoverned judges the requests that need a policy.
func (e *Enforcer) judgeGoverned(req proto.Message, name string) (*Grant, *denial.Denial) {
	switch r := req.(type) {
	case *agentpb.UpdateInterfaceRequest:
		return e.judgeInterface(r)
	case *agentpb.UpdateRoutesRequest:
		return e.judgeRoutes(r)
	case *agentpb.AddARPNeighborsRequest:
		return e.judgeNeighbors(r)
	case *agentpb.CreateSandboxRequest:
		return e.judgeSandbox(r)
	}
	judge := e.inSandbox(req)
	if judge == nil {
		return nil, deny(RequestNotAllowed, name, "requested", "never: no policy allows it")
	}
	if e.sandbox != sandboxReady {
		return nil, deny(OutOfOrder, name, "before CreateSandbox", "after")
	}
	return judge()
}

// inSandbox gives the judge of a request that needs the sandbox; nil: no policy
// allows it.
func (e *Enforcer) inSandbox(req proto.Message) func() (*Grant, *denial.Denial) {
	switch r := req.(type) {
	case *agentpb.CopyFileRequest:
		return func() (*Grant, *denial.Denial) { return e.judgeCopyFile(r) }
	case *agentpb.CreateContainerRequest:
		return func() (*Grant, *denial.Denial) { return e.judgeCreateContainer(r) }
	case *agentpb.StartContainerRequest:
		return func() (*Grant, *denial.Denial) { return e.judgeStart(r) }
	case *agentpb.RemoveContainerRequest:
		return func() (*Grant, *denial.Denial) { return e.judgeRemove(r) }
	case *agentpb.ExecProcessRequest:
		return func() (*Grant, *denial.Denial) { return e.judgeExecProcess(r) }
	case *agentpb.SignalProcessRequest:
		return func() (*Grant, *denial.Denial) { return e.judgeSignal(r) }
	case *agentpb.WaitProcessRequest:
		return func() (*Grant, *denial.Denial) { return e.judgeProcessQuery(r.ContainerId, r.ExecId) }
	case *agentpb.CloseStdinRequest:
		// Ending the input of a process is always the host's to do.
		return func() (*Grant, *denial.Denial) { return e.judgeProcessQuery(r.ContainerId, r.ExecId) }
	case *agentpb.StatsContainerRequest:
		return func() (*Grant, *denial.Denial) { return e.judgeProcessQuery(r.ContainerId, "") }
	case *agentpb.ReadStreamRequest:
		return func() (*Grant, *denial.Denial) { return e.judgeRead(r) }
	case *agentpb.WriteStreamRequest:
		return func() (*Grant, *denial.Denial) { return e.judgeWrite(r) }
	case *agentpb.TtyWinResizeRequest:
		return func() (*Grant, *denial.Denial) { return e.judgeResize(r) }
	case *agentpb.UpdateContainerRequest:
		return func() (*Grant, *denial.Denial) { return e.judgeUpdate(r) }
	case *agentpb.GetDiagnosticDataRequest:
		return func() (*Grant, *denial.Denial) { return e.judgeDiagnostics(r) }
	case *agentpb.VolumeStatsRequest:
		return func() (*Grant, *denial.Denial) { return e.judgeVolumeStats(r) }
	}
	return nil
}

// Exited tells the Enforcer that a process has ended, as the guest itself saw
// it, before any answer to the host says so. execID "" is the container's own
// process. status is the exit code, or 128 + signal.
func (e *Enforcer) Exited(containerID, execID string, status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := e.instances[containerID]
	if i == nil || (execID != "" && execID != containerID) || i.ended {
		return // an exec'd process stays known, for those who wait for it
	}
	i.ended = true
	switch i.phase {
	case starting: // Start's commit sees that it ended
	case running:
		i.phase = exited
	default: // ended without having been started: it never ran
		i.phase = exited
		return
	}
	i.status = status
	i.done = i.init && status == 0 && !i.spec.Sidecar
}
