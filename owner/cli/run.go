package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/owner/run"
)

// NewRunCommand runs a pod in a TEE.
func NewRunCommand() *cobra.Command {
	var f podFlags
	var publish, simDevices, volumes []string
	var maxRestarts int
	var detach bool
	var timings string
	cmd := &cobra.Command{
		Use:   "run [-f] POD.YAML",
		Short: "Run a pod in a Trusted Execution Environment",
		Long: `Run a Kubernetes pod in a TEE: boot a measured guest, let it attest to the
trustee, and let the guest pull, verify and decrypt the pod's images itself.

A pod that was not sealed (coffer seal) is sealed in memory. Output of the
containers goes to standard output, with the container's name before each line
where there are several; what coffer does goes to standard error. The pod's exit
code is coffer's; docs/exit-codes.md lists coffer's own.

Signals: the first SIGINT or SIGTERM stops the pod with its grace period, the
second at once; SIGHUP, SIGUSR1 and SIGUSR2 are passed on.`,
		Example: `  coffer run pod.yaml --tee tpm-sim
  coffer run pod.yaml --tee tpm-sim --publish 8080:80
  coffer run -f - --tee tpm-sim < pod.yaml
  coffer run pod.yaml --tee snp-sim --sim-device nvidia
  coffer run sealed.yaml --tee tpm-sim --volume data=./data.disk
  coffer run pod.yaml --tee tpm-sim --image docker.io/library/app=oci:./app`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.finish(args); err != nil {
				return err
			}
			f.announce(cmd)
			if err := checkSimDevices(f.opts.TEE, simDevices); err != nil {
				return err
			}
			o := run.Options{PodOptions: f.opts, SimDevices: simDevices, MaxRestarts: maxRestarts, Timings: timings,
				Stdout: cmd.OutOrStdout(), Progress: cmd.ErrOrStderr(), JSON: Output(cmd) == "json"}
			if f.opts.File != "-" {
				o.Stdin = os.Stdin
			}
			var err error
			if o.Volumes, err = parseVolumes(volumes); err != nil {
				return err
			}
			for _, p := range publish {
				pf, err := parsePublish(p)
				if err != nil {
					return err
				}
				o.Publish = append(o.Publish, pf)
			}
			if detach {
				return runDetached(cmd)
			}
			o.OnRunning = announce
			code, err := run.Run(cmd.Context(), o)
			if err != nil {
				return runError(err)
			}
			if code != 0 {
				return &ExitError{Code: code, Silent: true}
			}
			return nil
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.StringArrayVarP(&publish, "publish", "p", nil, "forward a port of this machine to the pod: [IP:]HOSTPORT:PORT[/tcp|udp] (repeatable)")
	fl.StringArrayVar(&volumes, "volume", nil, "the disk of a persistentVolumeClaim's volume: VOLUME=FILE, a file (truncate -s 1G FILE makes one) or a block device (repeatable)")
	fl.StringArrayVar(&simDevices, "sim-device", nil, "simulate a device beside a simulated TEE: "+strings.Join(simulatedDevices, ", ")+" (repeatable; protects nothing); an unsealed pod is sealed to demand its evidence. The namespace must allow nvidia-rim (coffer namespace allow-unproven)")
	fl.StringArrayVar(&f.images, "image", nil, "take an image from disk: NAME=oci:DIR, oci-archive:FILE or docker-archive:FILE (repeatable)")
	fl.IntVar(&maxRestarts, "max-restarts", -1, "end after so many restarts of a container (default: as the pod's restartPolicy says)")
	fl.BoolVarP(&detach, "detach", "d", false, "return when the pod runs, and print its id")
	fl.StringVar(&timings, "timings", "", "write how long each phase took to this file, as JSON")
	return cmd
}

// simulatedDevices are the kinds of devices that coffer-simhw plays.
var simulatedDevices = []string{"nvidia"}

// checkSimDevices refuses what coffer-simhw would refuse, while there is somebody
// to tell.
func checkSimDevices(tee launch.TEE, devices []string) error {
	for i, d := range devices {
		switch {
		case !tee.Played():
			return Exit(ExitUsage, fmt.Errorf("--sim-device: devices are simulated beside the TEEs that coffer-simhw plays, and %s is none of them", tee))
		case !slices.Contains(simulatedDevices, d):
			return Exit(ExitUsage, fmt.Errorf("--sim-device %q: coffer simulates %s", d, strings.Join(simulatedDevices, ", ")))
		case slices.Contains(devices[:i], d):
			return Exit(ExitUsage, fmt.Errorf("--sim-device %s: given twice; of each kind there is one device", d))
		}
	}
	return nil
}

// runError gives each kind of failure its exit code.
func runError(err error) error {
	var (
		input *run.InputError
		image *run.ImageError
		tee   *run.LaunchError
		deny  *run.Denied
		intr  *run.Interrupted
		cmd   *run.CommandError
	)
	switch {
	case errors.As(err, &deny):
		return Exit(ExitDenied, err)
	case errors.As(err, &input):
		return Exit(ExitInput, err)
	case errors.As(err, &image):
		return Exit(ExitImage, err)
	case errors.As(err, &tee):
		return Exit(ExitLaunch, err)
	case errors.As(err, &cmd):
		return Exit(ExitMissing, err)
	case errors.As(err, &intr):
		return Exit(128+int(intr.Signal), err) // as shells have it
	case run.TimedOut(err):
		return Exit(ExitTimeout, err)
	default:
		return err
	}
}

// NewSealCommand seals a pod.
func NewSealCommand() *cobra.Command {
	f := podFlags{hardware: true}
	var out string
	cmd := &cobra.Command{
		Use:   "seal [-f] POD.YAML",
		Short: "Seal a pod: fix and sign what it may run",
		Long: `Seal a pod: resolve its images to digests, write down in a policy what it may
run, put the policy and the trustee's address into initdata, sign a statement
that names it with the owner's key, and register it with the trustee.

The manifest comes back with one annotation more; nothing else changes. Bind
secrets to the printed seal with coffer secret put --for SEAL.`,
		Example: `  coffer seal pod.yaml --tee tpm-sim --out sealed.yaml
  coffer secret put default/db/password --for SEAL --from-file password.txt
  coffer run sealed.yaml --tee tpm-sim
  coffer seal pod.yaml --tee snp --trustee https://trustee.example:8443 --trustee-ca ca.pem --admin-key admin.key --out sealed.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.finish(args); err != nil {
				return err
			}
			f.announce(cmd)
			r, err := run.Seal(cmd.Context(), f.opts, func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), "coffer: "+s) })
			if err != nil {
				return runError(err)
			}
			if out != "" {
				if err := run.WriteFile(out, r.Manifest, 0o644); err != nil {
					return err
				}
			}
			for _, n := range r.Notes {
				fmt.Fprintln(cmd.ErrOrStderr(), "coffer: note:", n)
			}
			id := r.Seal
			if id == "" {
				id = "none (unregistered)"
			}
			switch {
			case Output(cmd) == "json":
				return PrintJSON(cmd.OutOrStdout(), r)
			case out == "":
				fmt.Fprintf(cmd.ErrOrStderr(), "coffer: seal %s, initdata %s\n", id, r.Initdata)
				_, err = cmd.OutOrStdout().Write(r.Manifest)
				return err
			default:
				fmt.Fprintf(cmd.OutOrStdout(), "seal      %s\ninitdata  %s\npolicy    %s\nmanifest  %s\n", id, r.Initdata, r.Policy, out)
				return nil
			}
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&out, "out", "", "file for the sealed manifest (default: standard output)")
	cmd.Flags().BoolVar(&f.opts.Unregistered, "unregistered", false, "sign and register nothing: such a pod attests, but gets no secret")
	return cmd
}
