package podpolicy

import (
	"fmt"
	"hash"

	"github.com/cofferproject/coffer/api/denial"
)

// maxIDs bounds what the Enforcer remembers of used ids; a host that restarts
// containers for longer only ends its own pod.
const maxIDs = 1 << 16

type sandboxPhase int

const (
	sandboxNone sandboxPhase = iota
	sandboxCreating
	sandboxReady
	sandboxDestroyed
)

type phase int

const (
	creating phase = iota
	created
	starting
	running
	exited
)

// slot is what became of one container of the policy.
type slot struct {
	spec    *Container
	init    bool
	claim   string    // "containers[app]"
	index   int       // among the init containers
	current *instance // the latest instance, until it is removed
	started bool      // some instance was started
	status  int       // how the latest started instance ended
	done    bool      // an init container that has ended with 0
}

// instance is one container under one id.
type instance struct {
	*slot
	id       string
	phase    phase
	ended    bool // the process has ended; may come before Start's Done
	removing bool
	execs    map[string]*execProcess // by exec id, ended ones too: an id is never used again
}

type execProcess struct {
	tty, stdin bool
	ready      bool
}

// fileState is how far the host has delivered one file.
type fileState struct {
	offset int64
	sum    hash.Cloner
	busy   bool
	done   bool
}

// mayCreate judges whether another instance of s may be created now.
func (e *Enforcer) mayCreate(s *slot) *denial.Denial {
	for _, earlier := range e.inits {
		if s.init && earlier.index >= s.index {
			break
		}
		if earlier.spec.Sidecar {
			if !earlier.started {
				return deny(OutOfOrder, s.claim, "requested now", fmt.Sprintf("only after sidecar %s was started", earlier.spec.Name))
			}
			continue
		}
		if !earlier.done {
			return deny(OutOfOrder, s.claim, "requested now", fmt.Sprintf("only after init container %s has exited with 0", earlier.spec.Name))
		}
	}
	if s.current != nil && (s.current.phase != exited || s.current.removing) {
		return deny(ContainerRunning, s.claim, "a second one", "at most one at a time")
	}
	if s.done {
		return deny(Replayed, s.claim, "once more", "an init container that succeeded never runs again")
	}
	if s.started {
		switch {
		case s.spec.Restart == "Always":
		case s.spec.Restart == "OnFailure" && s.status != 0:
		default:
			return deny(RestartDenied, s.claim, fmt.Sprintf("a restart after exit code %d", s.status), "restart: "+s.spec.Restart)
		}
	}
	return nil
}

// find gives the instance of a container id.
func (e *Enforcer) find(id string) (*instance, *denial.Denial) {
	if i := e.instances[id]; i != nil && i.phase != creating {
		return i, nil
	}
	return nil, deny(UnknownContainer, "container_id", id, "the id of a container that was created")
}

// process gives the instance and, for an exec'd process, its entry. The first
// process goes by "" or, with one published shim, by the container's own id.
func (e *Enforcer) process(id, execID string) (*instance, *execProcess, *denial.Denial) {
	i, d := e.find(id)
	if d != nil || execID == "" || execID == id {
		return i, nil, d
	}
	if x := i.execs[execID]; x != nil && x.ready {
		return i, x, nil
	}
	return nil, nil, deny(UnknownProcess, i.claim+".exec_id", execID, "the id of a process that was started")
}

func (i *instance) grant(execID string) *Grant {
	if execID == i.id {
		execID = ""
	}
	return &Grant{Container: i.spec, ContainerID: i.id, ExecID: execID, Init: i.init}
}
