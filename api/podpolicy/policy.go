// Package podpolicy is the contract pod policy: what one pod may run, as the
// owner stated it. It travels in initdata under the key DataKey as JSON, so the
// TEE's evidence binds it; the guest agent enforces it on every request of the
// host. SPEC.md is the format.
//
// Invariants: typed, never patterns (but for the named grammars); an unknown
// member is an error; a missing expected item is a denial as much as an extra
// one; without a policy nothing starts.
//
// Trust zone: written by the owner, enforced in the guest.
package podpolicy

// DataKey is the policy's member of initdata's [data] table.
const DataKey = "coffer.policy.json"

// Version is the only policy version.
const Version = 1

// MaxSize is the largest policy document, in bytes.
const MaxSize = 2 << 20

// Policy is the whole document.
type Policy struct {
	Version  int      `json:"version"`
	Pod      string   `json:"pod"` // namespace/name, for people and logs
	Hostname string   `json:"hostname"`
	Sandbox  Sandbox  `json:"sandbox"`
	Volumes  []Volume `json:"volumes,omitempty"`
	// Init containers come first, in order; each must have exited with 0 before
	// the next container starts. Then Containers, in any order.
	InitContainers []Container `json:"init_containers,omitempty"`
	Containers     []Container `json:"containers"`
}

// Sandbox holds what belongs to the whole pod.
type Sandbox struct {
	// ResolvConf is the fixed grammar for resolv.conf: "host" lets the host
	// name servers (addresses only), search domains and options; "none" denies any.
	ResolvConf string            `json:"resolv_conf"`
	Sysctls    map[string]string `json:"sysctls,omitempty"`
	ShmBytes   int64             `json:"shm_bytes"`
	Hosts      []HostAlias       `json:"hosts,omitempty"` // beside the guest's own lines in /etc/hosts
	Resources  bool              `json:"allow_resource_updates,omitempty"`
	SharePIDs  bool              `json:"share_pids,omitempty"` // the containers are in one pid namespace, and see each other's processes
}

// HostAlias is a line of /etc/hosts.
type HostAlias struct {
	IP    string   `json:"ip"`
	Names []string `json:"names"`
}

// VolumeKind is what a volume is.
type VolumeKind string

// Kinds of volumes.
const (
	VolumeFiles    VolumeKind = "files"     // ConfigMap or Secret files, each by content hash
	VolumeEmptyDir VolumeKind = "empty-dir" // tmpfs inside the TEE
	// VolumeServiceAccount holds the token and authorities that a cluster gives a
	// pod, as the host delivers and renews them, each of a fixed grammar; or nothing.
	VolumeServiceAccount VolumeKind = "service-account"
	// VolumeDisk is on a disk that the host gives, which the guest encrypts and
	// authenticates (guest/volume): with Key for more than one guest's life.
	VolumeDisk VolumeKind = "disk"
)

// MaxDisks is how many volumes of a pod may be on disks.
const MaxDisks = 8

// Volume is a pod volume that containers mount by name.
type Volume struct {
	Name      string          `json:"name"`
	Kind      VolumeKind      `json:"kind"`
	SizeLimit int64           `json:"size_limit,omitempty"` // bytes; empty-dir: 0 = no limit of its own; disk: the disk has at least so many
	Memory    bool            `json:"memory,omitempty"`     // empty-dir with medium Memory
	Files     map[string]File `json:"files,omitempty"`      // files: path relative to the volume's root, no "..", no leading "/"
	GID       *uint32         `json:"gid,omitempty"`        // fsGroup
	// Key is the resource ("kbs:///default/volumes/data") of which a disk's keys are
	// made; "": they are random, and nothing of the disk outlives the guest.
	Key string `json:"key,omitempty"`
	// Sealing has the TEE's own sealing key be part of them: SealingMREnclave of this pod's
	// TEE as it was measured, SealingMRSigner of any by its signer, together with a Key.
	Sealing string `json:"sealing,omitempty"`
	New     bool   `json:"new,omitempty"` // a disk with a Key that is empty may be made a volume
	// Block has containers get what is on a disk as a block device (Container.Devices), and
	// no file system of the guest's: only for a disk that outlives the guest.
	Block bool `json:"block,omitempty"`
}

// File is a file that the host delivers with CopyFile; the content is public to
// the host, its integrity is not the host's to change.
type File struct {
	SHA256 string `json:"sha256"` // lower-case hex of the content
	Size   int64  `json:"size"`
	Mode   uint32 `json:"mode"` // permission bits
}

// Container is what one container may be.
type Container struct {
	Name string `json:"name"`
	// Sidecar marks an init container that stays: the next container may start once
	// it has been started.
	Sidecar bool `json:"sidecar,omitempty"`
	// Image is the reference the guest pulls: "registry/repository@sha256:...".
	// ManifestDigest is the digest of the platform's manifest, IndexDigest of
	// the index it was found in, if any.
	Image          string `json:"image"`
	ManifestDigest string `json:"manifest_digest"`
	IndexDigest    string `json:"index_digest,omitempty"`

	Args []string `json:"args"`
	Env  []EnvVar `json:"env"` // the whole environment; order does not matter, duplicates are denied
	// ServiceLinks lets the host add variables of services, by their fixed grammar:
	// "" none, "kubernetes" of the cluster's API, "all" of the namespace's services.
	ServiceLinks    string   `json:"service_links,omitempty"`
	Cwd             string   `json:"cwd"`
	User            User     `json:"user"`
	Terminal        bool     `json:"terminal,omitempty"`
	Stdin           bool     `json:"stdin,omitempty"`
	ReadOnly        bool     `json:"read_only_root,omitempty"`
	NoNewPrivileges bool     `json:"no_new_privileges,omitempty"`
	Capabilities    []string `json:"capabilities"` // bounding, permitted, effective: exactly these, "CAP_..." sorted
	Seccomp         string   `json:"seccomp"`      // "unconfined", "runtime-default", or "sha256:<hex>" of the profile's canonical JSON
	MaskedPaths     []string `json:"masked_paths,omitempty"`
	ReadOnlyPaths   []string `json:"read_only_paths,omitempty"`
	Mounts          []Mount  `json:"mounts,omitempty"`        // beside the fixed /proc, /dev, /dev/pts, /dev/shm, /dev/mqueue, /sys, /sys/fs/cgroup, /etc/hosts, /etc/hostname, /etc/resolv.conf, which the guest makes itself
	Devices         []Device `json:"devices,omitempty"`       // beside the fixed /dev/null, zero, full, random, urandom, tty, ptmx
	ImageVolumes    []string `json:"image_volumes,omitempty"` // VOLUMEs of the verified image, mounted as empty-dir
	// Termination is the path of the file for the termination message; "" for
	// DefaultTermination.
	Termination string    `json:"termination_message,omitempty"`
	Resources   Resources `json:"resources,omitzero"`
	Restart     string    `json:"restart"` // "Always", "OnFailure", "Never": how often it may be created again
	Exec        []Exec    `json:"exec,omitempty"`
	Logs        bool      `json:"logs"`              // may the host read stdout, stderr and the termination message; if not they are drained
	Signals     []uint32  `json:"signals,omitempty"` // signals the host may send; empty: SIGTERM and SIGKILL
}

// EnvVar is one expected variable; exactly one of Value, SHA256 and From is set.
type EnvVar struct {
	Name   string  `json:"name"`
	Value  *string `json:"value,omitempty"`
	SHA256 string  `json:"sha256,omitempty"` // of the value: for values from a Secret, so that the policy does not carry them
	From   string  `json:"from,omitempty"`   // the host's word, by its fixed grammar: one of FromPodIP and so on
}

// User is who the container runs as. Names are resolved in the guest from the
// verified image; the host's numbers must agree with UID and GID where set and
// are ignored where Image is used.
type User struct {
	// Image is the image config's USER string ("", "nginx", "1000:1000"), used
	// when UID is nil.
	Image          string   `json:"image,omitempty"`
	UID            *uint32  `json:"uid,omitempty"`
	GID            *uint32  `json:"gid,omitempty"`
	AdditionalGIDs []uint32 `json:"additional_gids,omitempty"`
	NonRoot        bool     `json:"non_root,omitempty"` // refuse uid 0 after resolution
}

// Mount mounts a pod volume in a container.
type Mount struct {
	Volume      string `json:"volume"`
	Destination string `json:"destination"`
	SubPath     string `json:"sub_path,omitempty"`
	ReadOnly    bool   `json:"read_only,omitempty"`
}

// Device gives a container a block volume's plain content as a device node.
type Device struct {
	Volume   string `json:"volume"`
	Path     string `json:"path"` // of the node in the container
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Resources are the cgroup limits; zero means none.
type Resources struct {
	MemoryBytes int64  `json:"memory_bytes,omitempty"`
	CPUQuota    int64  `json:"cpu_quota,omitempty"`  // microseconds per CPUPeriod
	CPUPeriod   uint64 `json:"cpu_period,omitempty"` // microseconds
	CPUShares   uint64 `json:"cpu_shares,omitempty"`
	Pids        int64  `json:"pids,omitempty"`
}

// Exec is a process the host may start in the container: Args exactly, or with
// Any whatever the host likes; then the owner has opened the container to the
// host and says so. An entry with Any has no Args.
type Exec struct {
	Args  []string `json:"args,omitempty"`
	TTY   bool     `json:"tty,omitempty"`   // the host may ask for a terminal
	Stdin bool     `json:"stdin,omitempty"` // the host may write to its standard input
	Any   bool     `json:"any,omitempty"`
}

// Container gives the container of that name, init containers included; nil if
// there is none.
func (p *Policy) Container(name string) *Container {
	for _, list := range [][]Container{p.InitContainers, p.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
