package shim

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/api/types/task"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cofferproject/coffer/api/podpolicy"
)

// killed is the status of a process that a SIGKILL has ended.
const killed = 128 + 9

// proc is one process that containerd knows: the sandbox itself, a container's
// first one, or one exec'd in it.
type proc struct {
	mu       sync.Mutex
	status   task.Status
	exit     uint32
	exitedAt time.Time
	done     chan struct{} // closed after the exit
	io       stdio
	streams  *streams    // nil until it is started
	starting bool        // the guest has yet to answer to its start
	unwanted bool        // it is to be killed once the guest has
	dying    sync.Once   // for who waits that a SIGKILL has its effect
	reported atomic.Bool // the guest has told its exit
}

// copying gives the process's streams; nil before its start.
func (p *proc) copying() *streams {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.streams
}

func (p *proc) copy(s *streams) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams = s
}

func newProc(io stdio) *proc {
	return &proc{status: task.Status_CREATED, done: make(chan struct{}), io: io}
}

func (p *proc) state() task.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// move changes the status from one to another and reports whether it was that.
func (p *proc) move(from, to task.Status) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status != from {
		return false
	}
	p.status = to
	return true
}

// begin takes the process for running while the guest is asked to start it.
func (p *proc) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status != task.Status_CREATED {
		return false
	}
	p.status, p.starting = task.Status_RUNNING, true
	return true
}

// disown has a process killed once the guest has answered to its start. It reports
// whether a start is under way.
func (p *proc) disown() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unwanted = p.unwanted || p.starting
	return p.starting
}

// answered ends a start and reports whether the process was given up meanwhile.
func (p *proc) answered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starting = false
	return p.unwanted
}

// shown is the status that containerd hears: a process runs once the guest says so.
func (p *proc) shown() task.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.starting && p.status == task.Status_RUNNING {
		return task.Status_CREATED
	}
	return p.status
}

// ended records the exit, once. A process that ends while it is being started must not
// run afterwards.
func (p *proc) ended(code uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status == task.Status_STOPPED {
		return false
	}
	p.status, p.exit, p.exitedAt = task.Status_STOPPED, code, time.Now()
	p.unwanted = p.unwanted || p.starting
	close(p.done)
	return true
}

func (p *proc) result() (uint32, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit, p.exitedAt
}

// exec is a further process of a container.
type exec struct {
	*proc
	spec *specs.Process
}

// container is one task.
type container struct {
	*proc
	id, bundle string
	createdAt  time.Time
	sandbox    bool
	silent     bool                 // a sandbox of the sandbox API: containerd wants no task's events of it
	policy     *podpolicy.Container // nil: the sandbox
	// termination is the kubelet's file for the termination message; "": none.
	termination string
	oomTold     bool // watchOOM's alone

	execMu sync.Mutex
	execs  map[string]*exec
}

func (c *container) exec(id string) *exec {
	c.execMu.Lock()
	defer c.execMu.Unlock()
	return c.execs[id]
}
