// Package container runs containers inside the guest: namespaces, a root of
// overlay layers, cgroup v2 limits, capabilities, seccomp, terminals, exec and
// exit codes. It is a small OCI-style runtime in pure Go; why it is not runc:
// docs/decisions/0001-container-runtime.md. The agent API it serves is that of
// shared/spec/kata.md section 2.
//
// A container starts in two steps. Create forks coffer-guest as the container's
// init, which builds the mounts and waits; Start lets it execute the workload.
//
// Invariants: everything a container is comes from a Config that the agent made
// from the pod policy and the verified image, never from the host's strings; no
// TPM device and no guest socket is visible inside; what fails before the
// workload's execve ends the container, it never runs with less than asked.
//
// Trust zone: guest.
package container

import "github.com/cofferproject/coffer/guest/proc/seccomp"

// Config is what a container's init process builds.
type Config struct {
	// Layers are the image's unpacked layer directories, the topmost first.
	Layers []string
	// Scratch is an empty directory on a tmpfs for the container's own writes.
	Scratch string
	// Etc holds the guest-made files hosts, hostname and resolv.conf.
	Etc string
	// TerminationLog is a file that appears at TerminationPath; "" for none.
	TerminationLog, TerminationPath string
	// Shm is the sandbox's /dev/shm.
	Shm string
	// Mounts are bind mounts of guest directories, in order.
	Mounts []Mount
	// Devices are block devices, the only ones that the container may use.
	Devices []Device
	// Volumes are paths that stay writable, with what the image has there, even
	// below a read-only root (an image's VOLUMEs).
	Volumes []string
	// Masked and ReadOnlyPaths are hidden or made read-only where they exist.
	Masked        []string
	ReadOnlyPaths []string
	ReadOnlyRoot  bool
	Process       Process
	// LibraryOS says that the kernel is a library OS; the runtime sets it.
	LibraryOS bool
}

// Mount binds a guest directory or file at a path inside the container.
type Mount struct {
	Source      string
	SubPath     string // below Source, resolved inside it
	Destination string // absolute, resolved inside the container
	ReadOnly    bool
	// MakeSubPath makes a missing SubPath a directory (volumes that belong to the pod alone).
	MakeSubPath bool
}

// Device is a block device of the guest, as a node of the container's user.
type Device struct {
	Path     string // absolute, resolved inside the container; nothing is there
	Number   uint64 // of the device in the guest, as in a stat's rdev
	ReadOnly bool
}

// Process is one process in a container.
type Process struct {
	Args            []string
	Env             []string
	Cwd             string // "" = "/"
	User            User
	Capabilities    []string
	NoNewPrivileges bool
	Seccomp         []seccomp.Instruction // nil = no filter
	Rlimits         []Rlimit
	Terminal        bool
	Rows, Columns   uint16
	OOMScoreAdj     int
}

// User is who a process runs as; names are looked up in the container's own
// /etc/passwd and /etc/group.
type User struct {
	Spec    string // an image's USER: "", "name", "1000", "name:group", "1000:1000"; used when UID is nil
	UID     *uint32
	GID     *uint32 // nil: the user's group in /etc/passwd, or 0
	Groups  []uint32
	NonRoot bool // refuse uid 0
}

// Rlimit is one resource limit, by the kernel's number.
type Rlimit struct {
	Resource   int
	Soft, Hard uint64
}

// Limits are a container's cgroup limits; zero means none.
type Limits struct {
	MemoryBytes int64
	CPUQuota    int64
	CPUPeriod   uint64
	CPUShares   uint64
	Pids        int64
}
