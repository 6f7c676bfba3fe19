// Package run is `coffer run`: it takes a pod from its manifest to a running
// TEE and back. It starts coffer-node (the host's launcher) and, where no
// trustee is named, coffer-trustee as child processes and drives the guest
// agent over the socket that coffer-node offers.
//
// Trust zone: owner. What it learns from the host side (the agent's socket, the
// console) is treated as hostile: bounded and never interpreted beyond protobuf
// and JSON lines.
package run

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Files of a run directory that belong to coffer run; coffer-node adds its own
// (see api/nodeapi) and removes the directory when everything is dead.
const (
	stateFile     = "state.json"
	controlSocket = "control.sock"
	logDir        = "logs"
)

// State describes a running pod for `coffer ps` and friends. It holds nothing
// secret: whoever may read the run directory may read it.
type State struct {
	ID         string            `json:"id"`
	Pod        string            `json:"pod"` // namespace/name
	TEE        string            `json:"tee"`
	Simulated  bool              `json:"simulated"`
	PID        int               `json:"pid"` // of coffer run
	Started    time.Time         `json:"started"`
	Phase      string            `json:"phase"` // "starting", "running", "stopping"
	Containers []ContainerStatus `json:"containers"`
	Publish    []string          `json:"publish,omitempty"`
	SealID     string            `json:"seal_id,omitempty"`
	// Measured is what simulated hardware says that it has measured, by the claims' names.
	Measured map[string]string `json:"measured,omitempty"`
}

// ContainerStatus is one container's state as the agent reported it.
type ContainerStatus struct {
	Name     string `json:"name"`
	ID       string `json:"id,omitempty"` // the guest agent's container id, while it runs
	Init     bool   `json:"init,omitempty"`
	State    string `json:"state"` // "waiting", "running", "exited"
	ExitCode int    `json:"exit_code,omitempty"`
	Reason   string `json:"reason,omitempty"` // "OOMKilled", "Completed", "Error"
	Restarts int    `json:"restarts,omitempty"`
}

// Root gives the directory under which every run has its own:
// $COFFER_RUN_DIR, else /run/coffer for root, else $XDG_RUNTIME_DIR/coffer.
func Root() (string, error) {
	if d := os.Getenv("COFFER_RUN_DIR"); d != "" {
		d, err := filepath.Abs(d)
		if err != nil {
			return "", fmt.Errorf("COFFER_RUN_DIR: %w", err)
		}
		if n := len(d); n > maxRoot {
			return "", &InputError{fmt.Errorf("COFFER_RUN_DIR is too long: %d bytes, at most %d, or the paths of sockets in it do not fit: %s", n, maxRoot, d)}
		}
		return d, nil
	}
	if os.Geteuid() == 0 {
		return "/run/coffer", nil
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		return filepath.Join(d, "coffer"), nil
	}
	return "", errors.New("no place for run directories: set COFFER_RUN_DIR or XDG_RUNTIME_DIR")
}

// maxSocket is how long the path of a Unix socket may be.
const maxSocket = 107

// A run directory's socket has the root, a slash, as much of the pod's name as
// there is room for with "-" and 8 digits, a slash and at longest this name.
const (
	minPodName = 8
	maxRoot    = maxSocket - 1 - (minPodName + 9) - 1 - len(controlSocket)
)

// newRunDir makes a fresh directory, mode 0700, named after the pod and 4
// random bytes.
func newRunDir(root, pod string) (id, dir string, err error) {
	if err := os.MkdirAll(root, 0o711); err != nil {
		return "", "", fmt.Errorf("making the run directory's parent: %w", err)
	}
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", "", err
	}
	name := strings.ReplaceAll(pod, ".", "-") // an id has no dots
	if room := min(40, maxRoot+minPodName-len(root)); len(name) > room {
		name = strings.TrimRight(name[:room], "-")
	}
	id = name + "-" + hex.EncodeToString(b[:])
	dir = filepath.Join(root, id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", "", fmt.Errorf("making the run directory: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dir, logDir), 0o700); err != nil {
		return "", "", fmt.Errorf("making the log directory: %w", err)
	}
	return id, dir, nil
}

// writeState replaces state.json atomically.
func writeState(dir string, s *State) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "."+stateFile)
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("writing state: %w", err)
	}
	return os.Rename(tmp, filepath.Join(dir, stateFile))
}

// List gives the state of every run under root, oldest first. Directories that
// hold no readable state (just being made, or swept) are passed over.
func List(root string) ([]State, error) {
	ents, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing runs: %w", err)
	}
	var out []State
	for _, e := range ents {
		b, err := os.ReadFile(filepath.Join(root, e.Name(), stateFile))
		if err != nil || len(b) > 1<<20 {
			continue
		}
		var s State
		if json.Unmarshal(b, &s) == nil {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b State) int { return a.Started.Compare(b.Started) })
	return out, nil
}

// Find gives the run whose id is name, or whose pod's name is name if that is
// only one.
func Find(root, name string) (State, string, error) {
	all, err := List(root)
	if err != nil {
		return State{}, "", err
	}
	var hits []State
	for _, s := range all {
		if s.ID == name {
			return s, filepath.Join(root, s.ID), nil
		}
		if s.Pod == name || strings.HasSuffix(s.Pod, "/"+name) {
			hits = append(hits, s)
		}
	}
	switch len(hits) {
	case 0:
		return State{}, "", fmt.Errorf("no running pod is called %q; coffer ps lists them", name)
	case 1:
		return hits[0], filepath.Join(root, hits[0].ID), nil
	default:
		return State{}, "", fmt.Errorf("%d running pods are called %q; use an id from coffer ps", len(hits), name)
	}
}
