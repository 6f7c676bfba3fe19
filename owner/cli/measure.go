package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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
	bundle                             string
	expires                            time.Duration
	policy                             uint64
}

// MeasureReport is what --output json prints.
type MeasureReport struct {
	*measure.Result
	MemoryMiB int    `json:"memory_mib"`
	VCPUs     int    `json:"vcpus"`
	CPUModel  string `json:"cpu_model,omitempty"`
	Cmdline   string `json:"cmdline"`
	Bundle    string `json:"bundle,omitempty"` // file with the signed reference values
	SignedBy  string `json:"signed_by,omitempty"`
}

// NewMeasureCommand gives `coffer measure`.
func NewMeasureCommand() *cobra.Command {
	var f measureFlags
	cmd := &cobra.Command{
		Use:   "measure TEE",
		Short: "Say what a TEE's hardware will measure of a launch",
		Long: `Compute what TEE hardware will measure, without booting anything: of the
platform's guest image, of named files, or (--from-pod) of exactly what
"coffer run" with the same flags would launch.

--bundle writes the reference values, signed with the owner's key, for the trustee
to import. TEEs: ` + strings.Join(measure.TEEs(), ", ") + `.`,
		Example: `  coffer measure snp --vcpus 2
  coffer measure tdx-sim --from-pod pod.yaml --bundle values.jws
  coffer measure snp --firmware OVMF.fd --kernel vmlinuz --initrd initrd --cmdline "console=ttyS0" --vcpus 4 --cpu-model EPYC-Milan`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.FixedCompletions(measure.TEEs(), cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.opts.TEE = launch.TEE(args[0])
			return f.run(cmd)
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	for _, hidden := range []string{"file", "tee", "cpus"} { // given as --from-pod, TEE, --vcpus
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
	out := &MeasureReport{Result: r, MemoryMiB: spec.MemoryMiB, VCPUs: spec.VCPUs, CPUModel: spec.CPUModel, Cmdline: spec.Cmdline}
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
	if err != nil {
		return nil, nil, &run.InputError{Err: err}
	}
	return r, spec, nil
}

// spec makes the launch from the platform and what the flags name in its place.
func (f *measureFlags) spec() (*launch.Spec, error) {
	s := &launch.Spec{TEE: f.opts.TEE, CPUModel: f.opts.TEE.DefaultCPUModel()}
	if f.kernel == "" || f.firmware == "" && f.opts.TEE.Firmware() != "" {
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
	fmt.Fprintf(out, "launch: %d MiB, %d vCPU", r.MemoryMiB, r.VCPUs)
	if r.CPUModel != "" {
		fmt.Fprintf(out, " of model %s", r.CPUModel)
	}
	fmt.Fprintf(out, ", command line %q\n", r.Cmdline)
	for _, n := range r.Notes {
		fmt.Fprintln(out, "note:", n)
	}
	if r.Bundle != "" {
		fmt.Fprintf(out, "bundle: %s, signed by key %s\n", r.Bundle, r.SignedBy)
	}
	return nil
}
