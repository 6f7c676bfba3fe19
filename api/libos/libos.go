// Package libos is the contract of a pod in a library OS (SPEC.md): how a
// launch.Spec becomes what gVisor's runsc is started with, and what of it is
// measured. The launcher starts it by this package, the simulated hardware measures
// what runs by this package, and the owner computes what to expect by it; so the
// three cannot drift apart.
//
// Invariants: whatever changes what runs inside is in the Manifest; what is not
// there (folders of this machine, the sandbox's id) is named in SPEC.md.
//
// Trust zone: none of its own.
package libos

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/cofferproject/coffer/api/launch"
)

// Version is the only version of the Manifest.
const Version = 1

// Descriptors that the agent has from its start, after stdin, stdout and stderr.
// FDLink is coffer-start's alone, and in its place FDNetwork coffer-join's.
const (
	FDChannel  = 3 + iota   // guest channel
	FDHardware              // simulated hardware (api/simhw)
	FDInitdata              // initdata in the form of its device; empty: there is none
	FDLink                  // hands the network interface over
	FDNetwork  = FDLink     // the network namespace to run in
	FDStores   = FDLink + 1 // MaxStores files that keep volumes; one that is empty stands for none
)

// MaxStores is how many volumes of a pod outlive it.
const MaxStores = launch.MaxStores

// passed are the descriptors that the agent gets.
var passed = []int{FDChannel, FDHardware, FDInitdata, FDStores, FDStores + 1, FDStores + 2, FDStores + MaxStores - 1}

// Entry points of coffer-runsc beyond runsc's own.
const (
	Start = "coffer-start" // makes an interface in its namespace, and becomes runsc
	Join  = "coffer-join"  // enters the namespace behind FDNetwork, and becomes runsc
	Net   = "coffer-net"
)

// Names in a bundle.
const (
	ConfigFile = "config.json"
	RootFS     = "rootfs"
	Agent      = "init" // in RootFS, beside empty folders (Folders) and nothing else
)

// Folders are in the root file system, to mount on.
var Folders = []string{"dev", "etc", "proc", "run", "sys", "tmp"}

// AgentArg is the agent's first argument: its kernel is a library OS.
const AgentArg = "library-os"

// FloorArg begins the agent's argument with the source revision's date.
const FloorArg = "floor="

// Flags are the runtime's, all that are not their default. Each keeps something of
// the pod's from the host or the host's from the pod:
var Flags = []string{
	"-platform=systrap",
	"-network=sandbox",             // its own stack; the host sees frames
	"-overlay2=root:memory",        // what is written is in the Sentry's memory, not in a file
	"-directfs=false",              // the Sentry opens no file of the host
	"-host-uds=none",               // nor a socket
	"-gofer-network-namespace=new", // no namespace that outlives it
	"-host-fifo=none",              // nor a pipe
	"-ignore-cgroups",              // the launcher has made none
	"-in-sandbox-cgroup=v2",        // what the agent expects
	"-allow-suid",                  // as any kernel: no_new_privs and nosuid decide
	"-host-settings=ignore",        // no setting of the machine is changed
	"-sidecar-usage-policy=LEGACY_DEPRECATED_SLOW_EMBEDDED_FALLBACK", // one file is the runtime
}

// DefaultCmdline is the command line of a launch in a library OS: the runtime's
// flags, "--", the agent's arguments. floor is in Unix seconds.
func DefaultCmdline(floor int64) string {
	return strings.Join(Flags, " ") + " -- " + AgentArg + " " + FloorArg + strconv.FormatInt(floor, 10)
}

// Command is a command line taken apart.
type Command struct {
	Flags []string // of the runtime
	Args  []string // of the agent, without its name
	Env   []string // of the agent; "env:" before each in the line
}

const envPrefix = "env:"

// hostFlags are the runtime's that name folders of this machine. They are not
// measured, so a command line may not bring them.
var hostFlags = []string{"root"}

// ParseCommand takes a command line apart. Arguments hold no blanks.
func ParseCommand(line string) (*Command, error) {
	if len(line) > launch.MaxCmdline {
		return nil, fmt.Errorf("library OS: command line of %d bytes, at most %d", len(line), launch.MaxCmdline)
	}
	c := new(Command)
	words := strings.Fields(line)
	if strings.Join(words, " ") != line {
		return nil, errors.New("library OS: the command line's words must have one blank between them")
	}
	i := slices.Index(words, "--")
	if i < 0 {
		return nil, errors.New("library OS: no -- in the command line")
	}
	c.Flags = words[:i]
	for _, f := range c.Flags {
		if err := checkFlag(f); err != nil {
			return nil, err
		}
	}
	for _, w := range words[i+1:] {
		if e, ok := strings.CutPrefix(w, envPrefix); ok {
			c.Env = append(c.Env, e)
		} else {
			c.Args = append(c.Args, w)
		}
	}
	return c, nil
}

func checkFlag(f string) error {
	name, _, _ := strings.Cut(strings.TrimLeft(f, "-"), "=")
	if !strings.HasPrefix(f, "-") || name == "" {
		return fmt.Errorf("library OS: %.100q in the command line is no flag of the runtime: write -name=value", f)
	}
	if slices.Contains(hostFlags, name) {
		return fmt.Errorf("library OS: flag %.100q is the launcher's", f)
	}
	return nil
}

// Manifest is what is measured: the pages of the simulated enclave hold its
// encoding.
type Manifest struct {
	Version int      `json:"version"`
	Runtime string   `json:"runtime"` // hex SHA-256 of the program that is the library OS
	Flags   []string `json:"flags"`   // it was started with
	Config  string   `json:"config"`  // hex SHA-256 of ConfigFile: arguments, environment, size
	Agent   string   `json:"agent"`   // hex SHA-256 of the first program inside
}

// Encode gives the measured bytes.
func (m *Manifest) Encode() ([]byte, error) {
	for _, s := range []string{m.Runtime, m.Config, m.Agent} {
		if b, err := hex.DecodeString(s); err != nil || len(b) != sha256.Size || strings.ToLower(s) != s {
			return nil, fmt.Errorf("library OS: %.80q is no SHA-256", s)
		}
	}
	m.Version = Version
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("library OS: %w", err)
	}
	return b, nil
}

// Expected gives the Manifest of a launch whose files have these digests.
func Expected(spec *launch.Spec, runtime, agent string) (*Manifest, error) {
	c, err := ParseCommand(spec.Cmdline)
	if err != nil {
		return nil, err
	}
	config, err := Config(spec)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(config)
	return &Manifest{Runtime: runtime, Flags: c.Flags, Config: hex.EncodeToString(sum[:]), Agent: agent}, nil
}

// Digest gives the hex SHA-256 of at most limit bytes.
func Digest(r io.Reader, limit int64) (string, error) {
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return "", err
	case n > limit:
		return "", fmt.Errorf("more than %d bytes", limit)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// RunArgs are the runtime's arguments for one sandbox. The descriptors of the
// agent are the runtime's own at its start.
func RunArgs(c *Command, stateDir, bundle, id string) []string {
	out := append([]string{"-root=" + stateDir}, c.Flags...)
	out = append(out, "run", "-bundle="+bundle)
	for _, fd := range passed {
		out = append(out, fmt.Sprintf("-pass-fd=%d:%d", fd, fd))
	}
	return append(out, id)
}

// Running is what the arguments of a running runtime say.
type Running struct {
	Flags  []string // measured
	Bundle string
}

// ParseRunning takes the arguments (without argv[0]) of a running runtime apart. It
// takes exactly what RunArgs gives.
func ParseRunning(args []string) (*Running, error) {
	bad := func(what string) (*Running, error) {
		return nil, fmt.Errorf("library OS: the running runtime's arguments: %s", what)
	}
	i := slices.Index(args, "run")
	if i < 1 || !strings.HasPrefix(args[0], "-root=") {
		return bad("no folder of its own, or not told to run")
	}
	r := &Running{Flags: args[1:i]}
	for _, f := range r.Flags {
		if err := checkFlag(f); err != nil {
			return nil, err
		}
	}
	rest := args[i+1:]
	if want := len(passed) + 2; len(rest) != want {
		return bad(fmt.Sprintf("%d after run, not %d", len(rest), want))
	}
	var ok bool
	if r.Bundle, ok = strings.CutPrefix(rest[0], "-bundle="); !ok || r.Bundle == "" {
		return bad("no bundle")
	}
	for n, fd := range passed {
		if rest[1+n] != fmt.Sprintf("-pass-fd=%d:%d", fd, fd) {
			return bad("other descriptors")
		}
	}
	return r, nil
}

// SplitArguments takes the content of /proc/PID/cmdline apart and drops argv[0].
func SplitArguments(b []byte) ([]string, error) {
	words := strings.Split(string(bytes.TrimSuffix(b, []byte{0})), "\x00")
	if len(words) < 2 {
		return nil, errors.New("library OS: the running runtime has no arguments")
	}
	return words[1:], nil
}
