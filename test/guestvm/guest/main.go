// Command guest is a guest for tests of PID 1 in a virtual machine: it takes the
// directory /layer of its own image for every container's image, and prints its
// processes' memory. It is no part of any guest image that users run.
package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/agent"
	"github.com/cofferproject/coffer/guest/boot/pid1"
	"github.com/cofferproject/coffer/guest/keyholder"
	"github.com/cofferproject/coffer/tee/tpm/attester"
	"github.com/cofferproject/coffer/tee/tpm/device"
	"github.com/cofferproject/coffer/tee/tpm/sim"
)

func main() {
	os.Exit(pid1.Dispatch(os.Args, pid1.Options{
		Variant: "test", Simulated: true,
		OpenAttester: func(log *slog.Logger) (keyholder.Attester, error) {
			t, err := device.Open()
			if err != nil {
				return nil, err
			}
			return sim.New(t, attester.Options{Logger: log})
		},
		Images: func(*pid1.Guest) (agent.Images, error) {
			go reportMemory()
			return layer{}, nil
		},
	}))
}

type layer struct{}

func (layer) Prepare(context.Context, *podpolicy.Container) (*agent.Image, error) {
	return &agent.Image{Layers: []string{"/layer"}}, nil
}

// reportMemory prints the proportional set size of every process of the guest.
func reportMemory() {
	for range time.Tick(2 * time.Second) {
		files, _ := filepath.Glob("/proc/[0-9]*/smaps_rollup")
		sum, line := 0, ""
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				continue
			}
			name, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cmdline"))
			argv0, _, _ := bytes.Cut(name, []byte{0})
			for l := range strings.Lines(string(b)) {
				if v, ok := strings.CutPrefix(l, "Pss:"); ok {
					kb, _ := strconv.Atoi(strings.Fields(v)[0])
					if strings.HasPrefix(string(argv0), "coffer-") || string(argv0) == "/init" {
						sum += kb
					}
					line += fmt.Sprintf(" %s=%d", argv0, kb)
				}
			}
		}
		fmt.Printf("PSS sum=%d KiB:%s\n", sum, line)
	}
}
