// Package nodeapi is the contract between the user's tool (coffer run) and the
// node's launcher (coffer-node sandbox), which it starts as a child process.
//
// coffer-node sandbox reads one Request as JSON from standard input (at most
// 8 MiB), launches the sandbox, and writes Events as JSON lines to standard
// output: progress, then exactly one ready or failed, later exactly one exited.
// It lives as long as the sandbox. When its standard input reaches end of file
// or its parent dies, it destroys the sandbox and exits. The guest's channel is
// offered as Unix stream sockets in RunDir, see AgentSocket.
package nodeapi

import "github.com/cofferproject/coffer/api/launch"

// AgentSocket is the file in Request.RunDir on which coffer-node accepts
// connections to the guest agent: each connection is one stream of the guest
// channel of kind channel.KindTTRPC (the caller does not send the kind byte).
const AgentSocket = "agent.sock"

// ConsoleLog is the file in Request.RunDir that captures the guest's console.
const ConsoleLog = "console.log"

// Request asks for one sandbox.
type Request struct {
	ID       string      `json:"id"`       // [a-z0-9-]{1,63}
	RunDir   string      `json:"run_dir"`  // existing directory, mode 0700, owned by the caller; coffer-node fills it and empties it again of what it made
	Platform string      `json:"platform"` // path of platform.json, made by coffer guest build
	Launch   launch.Spec `json:"launch"`
}

// Event types, in Event.Type.
const (
	Progress = "progress" // Message says in one line what happens
	Ready    = "ready"    // the VM runs and AgentSocket accepts; the agent may still be booting
	Failed   = "failed"   // the sandbox could not be launched; Error says why; the process exits 1
	Exited   = "exited"   // the sandbox is gone; Reason tells how
)

// Reasons, in Event.Reason of an exited event.
const (
	ReasonDestroyed     = "destroyed"      // on request
	ReasonGuestShutdown = "guest-shutdown" // the guest powered off
	ReasonGuestPanic    = "guest-panic"    // the guest's kernel gave up
	ReasonCrashed       = "crashed"        // QEMU, swtpm or the guest channel broke
	ReasonKilled        = "killed"         // somebody killed QEMU
	ReasonNoAnswer      = "no-answer"      // the guest did not answer in time and was ended
)

// Event is one line of coffer-node sandbox's standard output.
type Event struct {
	Type       string         `json:"type"`
	Message    string         `json:"message,omitempty"`
	Error      string         `json:"error,omitempty"`        // failed: why; exited: what ended first and its last words, where that is known
	Reason     string         `json:"reason,omitempty"`       // exited: one of the Reason constants
	Console    string         `json:"console,omitempty"`      // failed, exited other than destroyed: the console's last lines, at most 4 KiB
	PIDs       map[string]int `json:"pids,omitempty"`         // ready: process names ("qemu", "swtpm") to host pids
	EKRootSPKI string         `json:"ek_root_spki,omitempty"` // ready, tpm-sim: hex SHA-256 of the simulated EK root's SPKI
	EKRoot     []byte         `json:"ek_root,omitempty"`      // ready, tpm-sim: DER of that root certificate
	Simulation *Simulation    `json:"simulation,omitempty"`   // ready, the TEEs that coffer-simhw plays
	// Launched is, in a ready event, what the launcher says that it has launched,
	// without initdata and ports: its word, which a measurement bears out or not.
	Launched *launch.Spec `json:"launched,omitempty"`
}

// Simulation is what coffer-simhw says of the hardware that it plays for one
// sandbox: how to recognise its evidence, and what it measured.
type Simulation struct {
	TEE      string            `json:"tee"`               // as in the launch spec: "snp-sim"
	Note     string            `json:"note"`              // the simulation note of its evidence
	RootSPKI string            `json:"root_spki"`         // hex SHA-256 of the root's SPKI
	Root     []byte            `json:"root"`              // DER of the root certificate
	Digests  map[string]string `json:"digests,omitempty"` // what it measured, in hex, by the claims' names
	// Platform is what the hardware's vendor would publish of its firmware, as
	// reference values by the names of the default policies ("snp_microcode").
	Platform map[string]any `json:"platform,omitempty"`
	// Collateral is what the hardware's vendor would publish, as a bundle of
	// tee/collateral; nil: nothing.
	Collateral []byte `json:"collateral,omitempty"`
	// Devices are those beside the TEE; their TEE is the wire name ("nvidia").
	Devices []Simulation `json:"devices,omitempty"`
}
