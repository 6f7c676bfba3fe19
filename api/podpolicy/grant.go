package podpolicy

// Grant is the Enforcer's yes to one request. It names what the request may do
// in the policy's own terms; the agent acts on these, never on the request's
// strings. The agent calls Done exactly once, when the action has ended:
// Done(nil) commits the state transition, Done(err) rolls it back so that the
// host may try again. Grants without a transition accept Done too.
type Grant struct {
	// Container is the policy's entry of the container the request is about;
	// nil for requests about the whole sandbox. It must not be changed.
	Container   *Container
	ContainerID string
	ExecID      string // of an exec'd process; "" is the container's own process
	Init        bool   // Container is an init container

	// Env is the verified environment for CreateContainer and ExecProcess in
	// the policy's order, each "NAME=value". It may hold secret values: never log it.
	Env []string
	// Args is the command line for CreateContainer and ExecProcess.
	Args []string
	// Terminal says whether the process gets a terminal, Stdin whether its
	// standard input is open to the host (CreateContainer, ExecProcess).
	Terminal, Stdin bool

	// Volumes are the pod volumes that the container mounts or has as devices
	// (CreateContainer), in the order of the policy's mounts and devices, each once.
	Volumes []*Volume

	// File is set for CopyFile.
	File *FileGrant

	// Drain is set for ReadStdout and ReadStderr where the policy keeps the
	// output from the host: answer with empty data, and keep the pipe drained.
	Drain bool

	commit   func()
	rollback func()
}

// FileGrant says what a CopyFile request writes. The Enforcer has hashed the
// data already: with Last set, the bytes of all chunks together have the
// policy's SHA-256 and size.
type FileGrant struct {
	Volume *Volume
	Path   string // relative to the volume's root; "" for the root itself
	Dir    bool   // make a directory (mode 0755), nothing to write
	File   File   // what the complete file must be (not for Dir)
	Offset int64  // where this chunk goes: always the end of what was written so far
	Last   bool   // this chunk completes the file
}

// Done commits (err == nil) or rolls back the grant's state transition. Only
// the first call counts.
func (g *Grant) Done(err error) {
	if g == nil {
		return
	}
	commit, rollback := g.commit, g.rollback
	g.commit, g.rollback = nil, nil
	if err == nil && commit != nil {
		commit()
	}
	if err != nil && rollback != nil {
		rollback()
	}
}
