package libos

import (
	"encoding/json"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
)

// config is the part of the OCI runtime configuration that is used. Its fields'
// order is that of the encoding, which is measured.
type config struct {
	Version  string  `json:"ociVersion"`
	Process  process `json:"process"`
	Root     root    `json:"root"`
	Hostname string  `json:"hostname"`
	Linux    linux   `json:"linux"`
}

type process struct {
	User         user         `json:"user"`
	Args         []string     `json:"args"`
	Env          []string     `json:"env"`
	Cwd          string       `json:"cwd"`
	Capabilities capabilities `json:"capabilities"`
	Rlimits      []rlimit     `json:"rlimits"`
}

type user struct {
	UID int `json:"uid"`
	GID int `json:"gid"`
}

type capabilities struct {
	Bounding  []string `json:"bounding"`
	Effective []string `json:"effective"`
	Permitted []string `json:"permitted"`
}

type rlimit struct {
	Type string `json:"type"`
	Hard uint64 `json:"hard"`
	Soft uint64 `json:"soft"`
}

type root struct {
	Path string `json:"path"`
}

type linux struct {
	Namespaces []namespace `json:"namespaces"`
	Resources  resources   `json:"resources"`
}

type namespace struct {
	Type string `json:"type"`
	Path string `json:"path,omitempty"`
}

type resources struct {
	Memory memory `json:"memory"`
	CPU    cpu    `json:"cpu"`
}

type memory struct {
	Limit int64 `json:"limit"` // bytes
}

type cpu struct {
	Quota  int64  `json:"quota"` // microseconds in a period
	Period uint64 `json:"period"`
}

// period of CPU quotas, microseconds.
const period = 100_000

// openFiles is the agent's limit; workloads get one of their own.
const openFiles = 1 << 20

// agentCapabilities are all that the library OS has: the agent is its init. They
// hold inside and give nothing outside.
var agentCapabilities = []string{
	"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE",
	"CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST",
	"CAP_NET_RAW", "CAP_PERFMON", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_BOOT",
	"CAP_SYS_CHROOT", "CAP_SYS_MODULE", "CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
}

// ownNetwork is the network namespace that the runtime was started in.
const ownNetwork = "/proc/self/ns/net"

// Config gives the OCI runtime configuration of a launch. There is no path of this
// machine in it, so that it is the same on every one.
func Config(spec *launch.Spec) ([]byte, error) {
	c, err := ParseCommand(spec.Cmdline)
	if err != nil {
		return nil, err
	}
	caps := capabilities{agentCapabilities, agentCapabilities, agentCapabilities}
	out := config{
		Version: "1.1.0",
		Process: process{
			Args: append([]string{"/" + Agent}, c.Args...), Env: append([]string{}, c.Env...), Cwd: "/",
			Capabilities: caps, Rlimits: []rlimit{{"RLIMIT_NOFILE", openFiles, openFiles}},
		},
		Root: root{RootFS}, Hostname: "localhost",
		Linux: linux{
			Namespaces: []namespace{{Type: "pid"}, {Type: "mount"}, {Type: "ipc"}, {Type: "uts"}, {"network", ownNetwork}},
			Resources:  resources{memory{int64(spec.MemoryMiB) << 20}, cpu{int64(spec.VCPUs) * period, period}},
		},
	}
	b, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("library OS: %w", err)
	}
	return b, nil
}
