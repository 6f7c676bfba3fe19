package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	apiplatform "github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/owner/guestimage"
	"github.com/cofferproject/coffer/owner/platform"
)

// GuestBuildOptions are the flags of coffer guest build.
type GuestBuildOptions struct {
	Out        string   // output folder; "": guest in the cache
	Source     string   // source tree; "": found from the working folder or the program
	Variants   []string // nil: all
	UpdateLock bool
	TempLock   bool
	JSON       bool
	Progress   io.Writer // nil: none
}

// GuestBuildReport is what --output json prints.
type GuestBuildReport struct {
	Platform     string              `json:"platform"`
	Measurements string              `json:"measurements"`
	Unchanged    bool                `json:"unchanged"`
	Provenance   refvalue.Provenance `json:"provenance"`
	Rows         []GuestMeasurement  `json:"rows"`
	Previous     []GuestMeasurement  `json:"previous,omitempty"`
	LockChanges  []platform.Change   `json:"lock_changes,omitempty"`
}

// GuestMeasurement sums up one image at one or more memory sizes that measure
// the same.
type GuestMeasurement struct {
	TEE       string `json:"tee"`
	Image     string `json:"image"`
	MemoryMiB []int  `json:"memory_mib"`
	// PCRs after boot: 0 (with one vCPU), 4 and 9 in hex.
	PCR0 string `json:"pcr0_1vcpu"`
	PCR4 string `json:"pcr4"`
	PCR9 string `json:"pcr9"`
}

// NewGuestCommand gives `coffer guest`.
func NewGuestCommand() *cobra.Command {
	guest := &cobra.Command{Use: "guest", Short: "Build the guest image and say what it will measure"}
	var o GuestBuildOptions
	build := &cobra.Command{
		Use:   "build",
		Short: "Build kernel, images and reference values from pinned packages and this source",
		Long: `Build fetches the pinned Debian packages into Coffer's cache, builds the guest
images reproducibly, and computes what each will measure at every VM size. The
host's own packages stay as they are.

A pinned package that the mirror no longer has is refused; --update-lock pins what
there is now, --temp-lock (or COFFER_TEMP_LOCK=1) uses it without pinning it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.JSON = Output(cmd) == "json"
			o.Progress = cmd.ErrOrStderr()
			return GuestBuild(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	f := build.Flags()
	f.StringVar(&o.Out, "out", "", "output `folder` (default: guest in the cache)")
	f.StringVar(&o.Source, "source", "", "Coffer's source `folder` (default: where coffer is started or lies)")
	f.StringSliceVar(&o.Variants, "variant", nil, "only these images: "+strings.Join(apiplatform.Variants, ", "))
	f.BoolVar(&o.UpdateLock, "update-lock", false, "pin the newest packages and show what changes")
	f.BoolVar(&o.TempLock, "temp-lock", false, "where a pinned package is gone, use the newest this once")
	build.MarkFlagsMutuallyExclusive("update-lock", "temp-lock")
	guest.AddCommand(build)
	return guest
}

// GuestBuild builds the platform and prints its measurements to out.
func GuestBuild(ctx context.Context, o GuestBuildOptions, out io.Writer) error {
	start := time.Now()
	progress := func(s string) {
		if o.Progress != nil {
			fmt.Fprintf(o.Progress, "[%5.1fs] %s\n", time.Since(start).Seconds(), s)
		}
	}
	source, err := findSource(o.Source)
	if err != nil {
		return Exit(ExitInput, err)
	}
	cache, err := platform.CacheDir()
	if err != nil {
		return err
	}
	if o.Out == "" {
		o.Out = filepath.Join(cache, "guest")
	}
	progress("checking the pinned packages: what is measured must be the same everywhere")
	pkgs, err := platform.Ensure(ctx, platform.Options{
		Cache:      cache,
		LockPath:   filepath.Join(source, platform.LockName),
		UpdateLock: o.UpdateLock,
		TempLock:   !o.UpdateLock && (o.TempLock || os.Getenv(platform.TempLockEnv) == "1"),
		Progress:   progress,
	})
	if err != nil {
		return err
	}
	for _, c := range pkgs.Changes {
		progress(fmt.Sprintf("package: %s -> %s", nameOrNone(c.Old), c.New))
	}
	if pkgs.Temporary {
		progress("WARNING: TEMPORARY LOCK: pinned packages are gone from the mirror and newer ones are used; " +
			"these measurements are not those of " + platform.LockName)
	}
	b, err := guestimage.Build(ctx, guestimage.Inputs{Source: source, Packages: pkgs, Out: o.Out, Variants: o.Variants, Progress: progress})
	if err != nil {
		return err
	}
	r := &GuestBuildReport{
		Platform: b.Path, Measurements: b.Platform.Measurements, Unchanged: b.Unchanged,
		Provenance: b.Bundle.Provenance, Rows: summarise(b.Bundle), LockChanges: pkgs.Changes,
	}
	if o.UpdateLock && b.Previous != nil {
		r.Previous = summarise(b.Previous)
	}
	if b.Unchanged {
		progress("unchanged: the images are those of the last build")
	}
	if o.JSON {
		return PrintJSON(out, r)
	}
	return r.print(out, b.Platform)
}

func nameOrNone(p platform.Package) string {
	if p.Name == "" {
		return "(not pinned)"
	}
	return p.String()
}

func findSource(dir string) (string, error) {
	if dir != "" {
		return guestimage.FindSource(dir)
	}
	s, err := guestimage.FindSource(".")
	if !errors.Is(err, guestimage.ErrNoSource) {
		return s, err
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding source: %w", err)
	}
	if s, err = guestimage.FindSource(filepath.Dir(exe)); err != nil {
		return "", fmt.Errorf("%w: start coffer in it or name it with --source", err)
	}
	return s, nil
}

// summarise gives one row for each run of memory sizes that measure the same.
func summarise(v *refvalue.Bundle) []GuestMeasurement {
	var rows []GuestMeasurement
	for _, s := range v.Sets {
		ev := s.For(1)
		r := GuestMeasurement{
			TEE: s.TEE, Image: s.Image, MemoryMiB: []int{s.MemoryMiB},
			PCR0: refvalue.Replay(ev, 0).String(), PCR4: refvalue.Replay(ev, 4).String(), PCR9: refvalue.Replay(ev, 9).String(),
		}
		if n := len(rows); n > 0 {
			if l := &rows[n-1]; l.TEE == r.TEE && l.Image == r.Image && l.PCR0 == r.PCR0 && l.PCR4 == r.PCR4 && l.PCR9 == r.PCR9 {
				l.MemoryMiB = append(l.MemoryMiB, s.MemoryMiB)
				continue
			}
		}
		rows = append(rows, r)
	}
	return rows
}

func (r *GuestBuildReport) print(out io.Writer, p *apiplatform.Platform) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	printRows := func(title string, rows []GuestMeasurement) {
		fmt.Fprintf(w, "%s\nTEE\tIMAGE\tMEMORY MiB\tPCR 0 (1 vCPU)\tPCR 4 (kernel)\tPCR 9 (command line, initrd)\n", title)
		for _, m := range rows {
			mem := fmt.Sprint(m.MemoryMiB[0])
			if n := len(m.MemoryMiB); n > 1 {
				mem += fmt.Sprintf("-%d", m.MemoryMiB[n-1])
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%.16s\t%.16s\t%.16s\n", m.TEE, m.Image, mem, m.PCR0, m.PCR4, m.PCR9)
		}
	}
	if len(r.Previous) > 0 {
		printRows("before (SHA-256, first 16 digits):", r.Previous)
		fmt.Fprintln(w)
	}
	printRows("measurements (SHA-256, first 16 digits; tpm-sim is SIMULATED: it protects nothing):", r.Rows)
	if err := w.Flush(); err != nil {
		return err
	}
	for _, n := range p.ImageNames() {
		fmt.Fprintf(out, "%-10s %s  sha256 %s\n", n, p.Images[n].Initrd, p.Images[n].InitrdSHA256)
		if n == apiplatform.Debug || n == apiplatform.SimDebug {
			fmt.Fprintf(out, "           WARNING: %s is a DEBUG image: it tells on the console what a release image hides. Never give its measurements to a trustee that keeps real secrets.\n", n)
		}
	}
	_, err := fmt.Fprintf(out, "platform: %s\nreference values: %s\n", r.Platform, r.Measurements)
	return err
}
