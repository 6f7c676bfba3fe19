package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/owner/run"
	"github.com/cofferproject/coffer/owner/seal"
)

// podFlags are the flags that run and seal have in common.
type podFlags struct {
	opts     run.PodOptions
	tee      string
	simulate bool
	chosen   string // what --insecure-simulate chose; for the user
	images   []string
	volumes  volumeFlags
	hardware bool // TEEs that this coffer starts nothing in will do too
}

func (f *podFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVarP(&f.opts.File, "file", "f", "", "pod manifest (YAML or JSON); - is standard input")
	usage := "TEE to run in: auto (hardware that this machine has), or " + teeNames() + " (simulated: protects nothing)"
	if f.hardware {
		usage = "TEE to seal for: snp, tdx, or " + teeNames() + " (simulated: protects nothing)"
	}
	fl.StringVar(&f.tee, "tee", "", usage)
	fl.StringVarP(&f.opts.Namespace, "namespace", "n", "", "namespace of the trustee in which the pod attests (default: "+run.SimulatedNamespace+" for simulated TEEs, "+run.HardwareNamespace+" for hardware)")
	fl.BoolVar(&f.simulate, "insecure-simulate", false, "with --tee auto: where there is no hardware, simulate a TEE, which protects nothing")
	fl.StringVar(&f.opts.Platform, "platform", run.DefaultPlatform(), "platform.json of coffer guest build")
	fl.BoolVar(&f.opts.Debug, "debug-image", false, "use the debug guest image: another measurement, talks on the console")
	addTrusteeFlags(cmd, &f.opts.Trustee)
	fl.StringVar(&f.opts.Images.RegistriesFile, "registries", "", "registries.conf (version 2): mirrors, insecure registries")
	fl.StringArrayVar(&f.opts.Images.CAFiles, "registry-ca", nil, "PEM file with the CA of a private registry (repeatable)")
	fl.StringVar(&f.opts.Images.AuthFile, "registry-auth-file", "", "auth.json for resolving images here")
	fl.StringVar(&f.opts.Images.GuestAuthURI, "registry-auth", "", "kbs:/// URI of the auth.json that the guest fetches from the trustee")
	fl.BoolVar(&f.opts.AllowExec, "allow-exec", false, "seal so that whoever runs the pod may start any command in it (coffer exec)")
	fl.BoolVar(&f.opts.HideLogs, "hide-logs", false, "seal so that whoever runs the pod cannot read its output")
	fl.BoolVar(&f.opts.EventLog, "event-log", false, "seal so that the pod can record run-time events, which attestation shows from then on (POST http://127.0.0.1:8006/aa/aael)")
	fl.StringArrayVar(&f.opts.Devices, "attest-device", nil, "seal so that the pod gets nothing without evidence of this kind of device beside the CPU: "+strings.Join(seal.AttestableDevices, ", ")+" (repeatable)")
	fl.BoolVar(&f.opts.BindChannel, "bind-channel", false, "seal so that the pod's evidence covers its TLS connection to the trustee; nothing may end TLS between them")
	fl.StringArrayVar(&f.opts.Identities, "identity", nil, "seal so that the pod's workloads can ask for this SPIFFE identity (GET http://127.0.0.1:8006/coffer/identity/x509/NAME; repeatable)")
	f.volumes.add(cmd)
	fl.IntVar(&f.opts.MemoryMiB, "memory", 0, "MiB of the VM (default: from the pod's limits and images)")
	fl.IntVar(&f.opts.VCPUs, "cpus", 0, "vCPUs of the VM (default: from the pod's limits, at least 2)")
	_ = cmd.RegisterFlagCompletionFunc("tee", cobra.FixedCompletions(strings.Split(f.names(), ", "), cobra.ShellCompDirectiveNoFileComp))
}

// addTrusteeFlags adds the flags that name a trustee.
func addTrusteeFlags(cmd *cobra.Command, o *run.TrusteeOptions) {
	fl := cmd.Flags()
	fl.StringVar(&o.URL, "trustee", "", "URL of the trustee (default: a local one, started if need be)")
	fl.StringVar(&o.CAFile, "trustee-ca", "", "PEM file with the trustee's CA; with --trustee")
	fl.StringVar(&o.AdminKey, "admin-key", "", "file with the key of an administrator, Ed25519 (default: of the local trustee's first)")
	fl.StringVar(&o.AdminToken, "admin-token", "", "file with a bearer token (coffer credential add token), in the place of --admin-key")
}

// finish checks what the flags say together.
func (f *podFlags) finish(args []string) error {
	switch {
	case len(args) > 1:
		return Exit(ExitUsage, fmt.Errorf("one pod manifest at a time, got %d", len(args)))
	case len(args) == 1 && f.opts.File != "":
		return Exit(ExitUsage, errors.New("the manifest is given twice: as an argument and with -f"))
	case len(args) == 1:
		f.opts.File = args[0]
	case f.opts.File == "":
		return Exit(ExitUsage, errors.New("no pod manifest given"))
	}
	switch tee := launch.TEE(f.tee); {
	case slices.Contains(runnable, tee), f.hardware && slices.Contains(sealable, tee):
		if f.simulate {
			return Exit(ExitUsage, fmt.Errorf("--insecure-simulate: --tee %s is a choice already", tee))
		}
		f.opts.TEE = tee
	case f.simulate && (tee == "" || tee == teeAuto):
		// No hardware can be chosen yet (runnable), so there is none to prefer.
		f.opts.TEE = bestSimulation(f.opts.Platform)
		f.chosen = fmt.Sprintf("no TEE hardware that coffer can use: --insecure-simulate chose %s", f.opts.TEE)
	case tee == teeAuto:
		return Exit(ExitUsage, errors.New("--tee auto: this machine has no TEE hardware that coffer can use yet, and auto never simulates; --insecure-simulate does (it protects nothing)"))
	case tee == "":
		return Exit(ExitUsage, errors.New("no TEE chosen, and this machine has none that coffer can use yet: --tee tpm-sim simulates one (it protects nothing)"))
	default:
		return Exit(ExitUsage, fmt.Errorf("--tee %q: coffer knows %s", f.tee, f.names()))
	}
	var err error
	if f.opts.Disks, err = f.volumes.disks(); err != nil {
		return err
	}
	if f.opts.ImagesOnDisk, err = f.volumes.imagesOnDisk(); err != nil {
		return err
	}
	return f.localImages()
}

// teeAuto asks for the hardware that the machine has, and never for a simulation.
const teeAuto = "auto"

// bestSimulation is the one that computes least: a virtual machine with a software
// TPM really measures its boot. Without a guest image it is a process.
func bestSimulation(platformFile string) launch.TEE {
	if _, err := os.Stat(platformFile); err == nil {
		return launch.TPMSim
	}
	return launch.SGXSim
}

// announce says what was chosen for the user.
func (f *podFlags) announce(cmd *cobra.Command) {
	if f.chosen != "" {
		fmt.Fprintln(cmd.ErrOrStderr(), "coffer: "+f.chosen)
	}
}

// sealable are the TEEs of hardware that a pod can be sealed for: those whose launch
// binds its initdata, and is computed here. A cluster's nodes start it
// (docs/kubernetes.md).
var sealable = []launch.TEE{launch.SNP, launch.TDX}

// runnable are the TEEs that coffer can start a pod in.
var runnable = launch.SimulatedTEEs

func teeNames() string {
	var out []string
	for _, t := range runnable {
		out = append(out, string(t))
	}
	return strings.Join(out, ", ")
}

// names lists what --tee takes.
func (f *podFlags) names() string {
	if !f.hardware {
		return teeNames()
	}
	out := teeNames()
	for _, t := range sealable {
		out += ", " + string(t)
	}
	return out
}

// localImages reads the --image flags.
func (f *podFlags) localImages() error {
	for _, s := range f.images {
		name, src, ok := strings.Cut(s, "=")
		if !ok || name == "" || src == "" {
			return Exit(ExitUsage, fmt.Errorf("--image %q: write NAME=oci:DIR, NAME=oci-archive:FILE or NAME=docker-archive:FILE", s))
		}
		if f.opts.Images.Local == nil {
			f.opts.Images.Local = map[string]string{}
		}
		f.opts.Images.Local[name] = src
	}
	return nil
}

// parsePublish reads [IP:]HOSTPORT:PORT[/PROTOCOL].
func parsePublish(s string) (launch.PortForward, error) {
	bad := func(why string) (launch.PortForward, error) {
		return launch.PortForward{}, Exit(ExitUsage, fmt.Errorf("--publish %q: %s; write [IP:]HOSTPORT:PORT[/tcp|udp]", s, why))
	}
	rest, proto, ok := strings.Cut(s, "/")
	if !ok {
		proto = "tcp"
	}
	if proto != "tcp" && proto != "udp" {
		return bad("unknown protocol " + proto)
	}
	i := strings.LastIndexByte(rest, ':')
	if i < 0 {
		return bad("no port of the pod")
	}
	guest, err := strconv.ParseUint(rest[i+1:], 10, 16)
	if err != nil || guest == 0 {
		return bad("the pod's port is no port")
	}
	host, ip := rest[:i], ""
	if j := strings.LastIndexByte(host, ':'); j >= 0 {
		ip, host = strings.Trim(host[:j], "[]"), host[j+1:]
		if net.ParseIP(ip) == nil {
			return bad("the address is no IP address")
		}
	}
	hp, err := strconv.ParseUint(host, 10, 16)
	if err != nil || hp == 0 {
		return bad("the host's port is no port")
	}
	return launch.PortForward{HostIP: ip, HostPort: int(hp), GuestPort: int(guest), Protocol: proto}, nil
}
