package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/owner/measure"
	"github.com/cofferproject/coffer/owner/run"
	"github.com/cofferproject/coffer/owner/seal"
)

// measureFlags are the flags of coffer measure beyond those of run.
type measureFlags struct {
	podFlags
	fromPod, variant                   string
	firmware, kernel, initrd, initdata string
	cmdline, cpuModel                  string
	enclave, sigstruct, bootImage      string
	hostKeys                           []string
	acceptSigner                       bool
	bundle                             string
	expires                            time.Duration
	policy                             uint64
}

// MeasureReport is what --output json prints.
type MeasureReport struct {
	*measure.Result
	*MeasuredMachine        // nil for a TEE that loads an image: it has none that counts
	Bundle           string `json:"bundle,omitempty"` // file with the signed reference values
	SignedBy         string `json:"signed_by,omitempty"`
}

// MeasuredMachine is the virtual machine of a measured launch.
type MeasuredMachine struct {
	MemoryMiB int    `json:"memory_mib"`
	VCPUs     int    `json:"vcpus"`
	CPUModel  string `json:"cpu_model,omitempty"`
	Cmdline   string `json:"cmdline"`
}

// NewMeasureCommand gives `coffer measure`.
func NewMeasureCommand() *cobra.Command {
	var f measureFlags
	cmd := &cobra.Command{
		Use:   "measure TEE",
		Short: "Say what a TEE's hardware will measure of a launch",
		Long: `Compute what TEE hardware will measure, without booting anything: of the
platform's guest image, of named files, or (--from-pod) of exactly what
"coffer run" with the same flags would launch. SGX is given an enclave (an SGXS
stream), Secure Execution an encrypted boot image.

--bundle writes the reference values, signed with the owner's key, for the trustee
to import. TEEs: ` + strings.Join(measure.TEEs(), ", ") + `.`,
		Example: `  coffer measure snp --vcpus 2
  coffer measure tdx-sim --from-pod pod.yaml --bundle values.jws
  coffer measure snp --firmware OVMF.fd --kernel vmlinuz --initrd initrd --cmdline "console=ttyS0" --vcpus 4 --cpu-model EPYC-Milan
  coffer measure sgx --enclave app.sgxs --sigstruct app.sig --bundle values.jws
  coffer measure se --boot-image pod.img --host-key HKD-3931-0275d38.crt --bundle values.jws`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.FixedCompletions(measure.TEEs(), cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.opts.TEE = launch.TEE(args[0])
			if name := foreignFlag(f.opts.TEE, cmd.Flags().Changed); name != "" {
				return Exit(ExitUsage, fmt.Errorf("--%s: says nothing about what %s measures", name, f.opts.TEE))
			}
			return f.run(cmd)
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	for _, hidden := range []string{"file", "tee", "cpus", "insecure-simulate"} { // given as --from-pod, TEE, --vcpus
		_ = fl.MarkHidden(hidden)
	}
	fl.StringVar(&f.fromPod, "from-pod", "", "measure what coffer run would launch for this pod manifest")
	fl.StringArrayVar(&f.images, "image", nil, "with --from-pod, as for coffer run (repeatable)")
	fl.IntVar(&f.opts.VCPUs, "vcpus", 0, "vCPUs of the VM (default: 2, or as the pod asks)")
	fl.StringVar(&f.variant, "variant", "", "guest image of the platform: "+strings.Join(platform.Variants, ", "))
	fl.StringVar(&f.cpuModel, "cpu-model", "", "vCPU model, as QEMU names it")
	fl.StringVar(&f.firmware, "firmware", "", "firmware `file` that the TEE measures")
	fl.StringVar(&f.kernel, "kernel", "", "kernel `file` (bzImage)")
	fl.StringVar(&f.initrd, "initrd", "", "initrd `file`")
	fl.StringVar(&f.cmdline, "cmdline", "", "kernel command line")
	fl.StringVar(&f.initdata, "initdata", "", "plain initdata document")
	fl.Uint64Var(&f.policy, "guest-policy", 0, "guest policy of SNP, SEV-ES or SEV")
	fl.StringVar(&f.enclave, "enclave", "", "sgx: enclave `file` (SGXS)")
	fl.StringVar(&f.sigstruct, "sigstruct", "", "sgx: `file` with the enclave's signature structure")
	fl.BoolVar(&f.acceptSigner, "accept-signer", false, "sgx: values accept any enclave of this signer, product and version")
	fl.StringVar(&f.bootImage, "boot-image", "", "se: encrypted boot image, or its header alone (`file`)")
	fl.StringArrayVar(&f.hostKeys, "host-key", nil, "se: host key document of a machine that may run the image (`file`, repeatable)")
	fl.StringVar(&f.bundle, "bundle", "", "write signed reference values to this `file`")
	fl.DurationVar(&f.expires, "expires", 90*24*time.Hour, "how long the bundle counts")
	cmd.MarkFlagsMutuallyExclusive("from-pod", "initdata")
	return cmd
}

func (f *measureFlags) run(cmd *cobra.Command) error {
	r, spec, err := f.measure(cmd.Context(), func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), "coffer: "+s) })
	if err != nil {
		return runError(err)
	}
	r.Debug = f.debug()
	out := &MeasureReport{Result: r}
	if !spec.TEE.LoadsImage() {
		out.MeasuredMachine = &MeasuredMachine{MemoryMiB: spec.MemoryMiB, VCPUs: spec.VCPUs, CPUModel: spec.CPUModel, Cmdline: spec.Cmdline}
	}
	if f.bundle != "" {
		if err := f.sign(out); err != nil {
			return err
		}
	}
	if Output(cmd) == "json" {
		return PrintJSON(cmd.OutOrStdout(), out)
	}
	return out.print(cmd.OutOrStdout())
}

// debug says whether the guest image is a debug image, as far as the flags tell.
func (f *measureFlags) debug() bool { return f.opts.Debug || refvalue.DebugImage(f.variant) }

func (f *measureFlags) measure(ctx context.Context, progress func(string)) (*measure.Result, *launch.Spec, error) {
	named := f.firmware != "" || f.kernel != "" || f.initrd != "" || f.cmdline != "" || f.cpuModel != "" || f.variant != "" || f.policy != 0
	if f.fromPod != "" {
		if named {
			return nil, nil, Exit(ExitUsage, errors.New("--from-pod takes what coffer run would launch: no other file, variant or vCPU model can be named"))
		}
		tee := f.opts.TEE
		f.opts.File, f.tee = f.fromPod, string(tee)
		if err := f.localImages(); err != nil {
			return nil, nil, err
		}
		return run.Measure(ctx, f.opts, progress)
	}
	spec, err := f.spec()
	if err != nil {
		return nil, nil, err
	}
	r, err := measure.Launch(spec)
	if err == nil && f.acceptSigner {
		err = r.AcceptSigner()
	}
	if err != nil {
		return nil, nil, &run.InputError{Err: err}
	}
	return r, spec, nil
}

// Flags by what they describe.
var (
	machineFlags = []string{
		"from-pod", "image", "platform", "debug-image", "variant", "firmware", "kernel", "initrd", "cmdline", "cpu-model", "guest-policy", "vcpus", "cpus", "memory",
	}
	enclaveFlags   = []string{"enclave", "sigstruct", "accept-signer"}
	bootImageFlags = []string{"boot-image", "host-key"}
)

// foreignFlag gives the first flag that was set and describes another kind of TEE;
// unheard, it would make a measurement look like that of something else.
func foreignFlag(tee launch.TEE, changed func(string) bool) string {
	var foreign []string
	if tee.LoadsImage() {
		foreign = machineFlags
	}
	if tee != launch.SGX {
		foreign = slices.Concat(foreign, enclaveFlags)
	}
	if tee != launch.SE {
		foreign = slices.Concat(foreign, bootImageFlags)
	}
	if i := slices.IndexFunc(foreign, changed); i >= 0 {
		return foreign[i]
	}
	return ""
}

// spec makes the launch from the platform and what the flags name in its place.
func (f *measureFlags) spec() (*launch.Spec, error) {
	s := &launch.Spec{TEE: f.opts.TEE, CPUModel: f.opts.TEE.DefaultCPUModel()}
	if s.TEE.LoadsImage() {
		if err := f.image(s); err != nil {
			return nil, err
		}
	} else if f.kernel == "" || f.firmware == "" && f.opts.TEE.Firmware() != "" {
		p, err := platform.Load(f.opts.Platform)
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w: coffer guest build makes it; without a platform, --kernel and --firmware name files", err)
		}
		if err != nil {
			return nil, &run.InputError{Err: err}
		}
		variant := f.variant
		switch {
		case variant != "":
		case s.TEE.Simulated() && f.opts.Debug:
			variant = platform.SimDebug
		case s.TEE.Simulated():
			variant = platform.Sim
		case f.opts.Debug:
			variant = platform.Debug
		default:
			variant = platform.Release
		}
		if s, err = p.Spec(s.TEE, variant, 0, 0); err != nil {
			return nil, &run.InputError{Err: err}
		}
	}
	if f.kernel != "" { // another kernel comes with its own initrd and command line
		s.Kernel, s.Initrd, s.Cmdline = launch.File{Path: f.kernel}, launch.File{}, ""
	}
	if f.initrd != "" {
		s.Initrd = launch.File{Path: f.initrd}
	}
	if f.cmdline != "" {
		s.Cmdline = f.cmdline
	}
	if f.firmware != "" {
		s.TEEFirmware = launch.File{Path: f.firmware}
	}
	if f.cpuModel != "" {
		s.CPUModel = f.cpuModel
	}
	if f.policy != 0 {
		s.SNP = &launch.SNPParams{Policy: f.policy}
	}
	s.VCPUs, s.MemoryMiB = cmp.Or(f.opts.VCPUs, launch.DefaultVCPUs), f.opts.MemoryMiB
	if s.MemoryMiB == 0 {
		s.MemoryMiB = launch.MemoryLadderMiB[0]
	}
	if f.initdata != "" {
		b, err := os.ReadFile(f.initdata)
		if err != nil {
			return nil, &run.InputError{Err: err}
		}
		s.Initdata = b
	}
	return s, nil
}

// image names the files of a TEE that loads an image.
func (f *measureFlags) image(s *launch.Spec) error {
	flag, path := "enclave", f.enclave
	if s.TEE == launch.SE {
		flag, path = "boot-image", f.bootImage
	}
	if path == "" {
		return Exit(ExitUsage, fmt.Errorf("--%s: names the file that %s loads, and is missing", flag, s.TEE))
	}
	s.Image = launch.File{Path: path}
	if f.sigstruct != "" {
		s.SGX = &launch.SGXParams{Sigstruct: launch.File{Path: f.sigstruct}}
	}
	for _, p := range f.hostKeys {
		if s.SE == nil {
			s.SE = new(launch.SEParams)
		}
		s.SE.HostKeys = append(s.SE.HostKeys, launch.File{Path: p})
	}
	return nil
}

// sign writes the bundle.
func (f *measureFlags) sign(out *MeasureReport) error {
	if f.expires <= 0 {
		return Exit(ExitUsage, errors.New("--expires: the bundle must count for some time"))
	}
	b, err := out.Result.Bundle("coffer measure", time.Now().Add(f.expires))
	if err != nil {
		return err
	}
	key, _, err := seal.OwnerKey("")
	if err != nil {
		return &run.InputError{Err: err}
	}
	signed, err := refvalue.Sign(b, key)
	if err != nil {
		return err
	}
	out.Bundle, out.SignedBy = f.bundle, signed.KeyID
	return run.WriteFile(f.bundle, []byte(signed.Raw+"\n"), 0o644)
}

func (r *MeasureReport) print(out io.Writer) error {
	if r.TEE.Simulated() {
		fmt.Fprintf(out, "%s is SIMULATED: it protects nothing\n", r.TEE)
	}
	if r.Debug {
		fmt.Fprintln(out, "WARNING: these are the values of a DEBUG image, which shows on its console what a release image hides. The bundle says so, and a production")
		fmt.Fprintln(out, "namespace takes it only if it was made with --insecure-allow-debug. Never give it to a trustee that keeps real secrets.")
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FIELD\tVALUE\tOF")
	for _, row := range r.Rows {
		fmt.Fprintf(w, "%s\t%s\t%s\n", row.Field, row.Value, row.Of)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if m := r.MeasuredMachine; m != nil {
		fmt.Fprintf(out, "launch: %d MiB, %d vCPU", m.MemoryMiB, m.VCPUs)
		if m.CPUModel != "" {
			fmt.Fprintf(out, " of model %s", m.CPUModel)
		}
		fmt.Fprintf(out, ", command line %q\n", m.Cmdline)
	}
	for _, n := range r.Notes {
		fmt.Fprintln(out, "note:", n)
	}
	if r.Bundle != "" {
		fmt.Fprintf(out, "bundle: %s, signed by key %s\n", r.Bundle, r.SignedBy)
	}
	return nil
}
