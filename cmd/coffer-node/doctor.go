package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/host/hostcheck"
	"github.com/cofferproject/coffer/host/vmm"
)

// errNoTEE says that what was asked about cannot run here.
var errNoTEE = errors.New("no TEE of those asked about can run on this machine")

// doctorMain says what each TEE needs, and whether it is there.
func doctorMain(args []string, out io.Writer) error {
	fs := flag.NewFlagSet("doctor", flag.ContinueOnError)
	output := fs.String("output", "text", "text or json")
	tee := fs.String("tee", "", "this TEE alone")
	path := fs.String("platform", "", "platform.json of coffer guest build (default: the one in the cache)")
	quotes := fs.String("quote-socket", vmm.DefaultQuoteSocket, "tdx: socket of the quote generation service")
	var devices []string
	fs.Func("host-device", "with --tee: PCI address of a device that its pods are to be given, such as 0000:65:00.0; may be repeated", func(s string) error {
		if !launch.ValidPCIAddress(s) {
			return fmt.Errorf("%.40q is no PCI address (0000:65:00.0)", s)
		}
		devices = append(devices, s)
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return err
	}
	if len(devices) > 0 && !launch.TEE(*tee).TakesHostDevices() {
		return errors.New("--host-device: with --tee snp or tdx, whose pods are given devices")
	}
	if fs.NArg() != 0 || *output != "text" && *output != "json" {
		return errors.New("doctor takes no arguments, and --output text or json")
	}
	if *tee != "" && !slices.Contains(hostcheck.TEEs(), launch.TEE(*tee)) {
		return fmt.Errorf("--tee %q: the hardware that can be looked at is %v", *tee, hostcheck.TEEs())
	}
	p, err := doctorPlatform(*path)
	if err != nil {
		return err
	}
	h := hostcheck.This(p.QEMU.Path, *quotes)
	firmware := func(t launch.TEE) string { return p.TEEFirmware[t.Firmware()].Path }
	var reports []*hostcheck.Report
	if t := launch.TEE(*tee); t != "" {
		reports = append(reports, h.Inspect(context.Background(), t, hostcheck.Needs{Firmware: firmware(t), HostDevices: devices}))
	} else {
		reports = h.All(context.Background(), firmware)
	}
	if err := printReports(out, *output, reports); err != nil {
		return err
	}
	if !anyReady(reports, *tee != "") {
		return errNoTEE
	}
	return nil
}

// anyReady reports whether one of the TEEs is ready. One that nothing is launched on
// (SGX) counts only for who asked about it.
func anyReady(reports []*hostcheck.Report, asked bool) bool {
	return slices.ContainsFunc(reports, func(r *hostcheck.Report) bool { return r.Ready && (asked || r.TEE.Hardware()) })
}

// doctorPlatform gives the platform; where none was built, what needs it is missing
// and the rest is still worth knowing.
func doctorPlatform(path string) (*platform.Platform, error) {
	named := path != ""
	if !named {
		cache, err := vmm.CacheDir()
		if err != nil {
			return nil, err
		}
		path = filepath.Join(cache, "guest", platform.FileName)
	}
	p, err := platform.Load(path)
	if errors.Is(err, os.ErrNotExist) && !named {
		return new(platform.Platform), nil
	}
	return p, err
}

func printReports(out io.Writer, format string, reports []*hostcheck.Report) error {
	if format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"tees": reports})
	}
	for _, r := range reports {
		state := "not here"
		if r.Ready {
			state = "ready"
		}
		if _, err := fmt.Fprintf(out, "%s: %s\n", r.TEE, state); err != nil {
			return err
		}
		for _, c := range r.Checks {
			mark := "ok  "
			if !c.OK {
				mark = "MISS"
			}
			line := fmt.Sprintf("  %s %s: %s", mark, c.What, c.Found)
			if c.Fix != "" {
				line += "\n       " + c.Fix
			}
			if _, err := fmt.Fprintln(out, line); err != nil {
				return err
			}
		}
	}
	return nil
}
