package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// row is one figure over all runs.
type row struct {
	Name    string    `json:"name"`
	Bound   float64   `json:"bound,omitempty"`
	Min     float64   `json:"min"`
	Median  float64   `json:"median"`
	Max     float64   `json:"max"`
	Samples []float64 `json:"samples"`
}

// figures are what the whole benchmark found.
type figures struct {
	Memory       int    `json:"memory_mib"`
	Load         string `json:"load_before"`
	Rows         []*row `json:"seconds"`
	Attestations []int  `json:"attestations"`
	PSS          int    `json:"pss_kib,omitempty"`

	weights [][2]int // KiB: plain, sealed
}

func newFigures(c *config) *figures {
	f := &figures{Memory: c.memory}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		f.Load = strings.TrimSpace(string(b))
	}
	return f
}

func (f *figures) put(name string, bound, seconds float64) {
	i := slices.IndexFunc(f.Rows, func(r *row) bool { return r.Name == name })
	if i < 0 {
		i = len(f.Rows)
		f.Rows = append(f.Rows, &row{Name: name, Bound: bound})
	}
	r := f.Rows[i]
	r.Samples = append(r.Samples, seconds)
	r.Min, r.Median, r.Max = slices.Min(r.Samples), median(r.Samples), slices.Max(r.Samples)
}

func (f *figures) add(bare float64, s *sample) {
	f.put("T_bare: request to the bare init's line", 0, bare)
	f.put("T_run: coffer run to the workload's line", 0, s.total)
	f.put("T_run - T_bare", 2.5, s.total-bare)
	// T_bare begins with the request to coffer-node, so does this.
	answer := s.until("agent's first answer") - s.until("sealed and registered")
	f.put("agent's first answer - T_bare", 0.9, answer-bare)
	image := 0.0
	for _, g := range s.guest {
		if g.Name == "image: all" {
			image = g.Seconds
		}
	}
	create := s.until("workload's first line") - s.until("sandbox created")
	f.put("CreateContainer to first line", 0, create)
	f.put("CreateContainer to first line - image", 0.3, create-image)
	for _, g := range s.guest {
		bound := 0.0
		if g.Name == "auth request to token" {
			bound = 0.5
		}
		f.put("guest: "+g.Name, bound, g.Seconds)
	}
	for _, p := range s.phases {
		f.put("phase: "+p.Name, 0, p.Seconds)
	}
	f.Attestations = append(f.Attestations, s.attestation)
}

func (f *figures) print(w io.Writer) {
	fmt.Fprintf(w, "\n%d MiB, load before: %s\n", f.Memory, f.Load)
	fmt.Fprintf(w, "%-58s %8s %8s %8s %8s\n", "seconds", "min", "median", "max", "bound")
	for _, r := range f.Rows {
		bound := ""
		if r.Bound != 0 {
			bound = fmt.Sprintf("%.2f", r.Bound)
		}
		fmt.Fprintf(w, "%-58s %8.2f %8.2f %8.2f %8s\n", r.Name, r.Min, r.Median, r.Max, bound)
	}
	if len(f.Attestations) > 0 {
		fmt.Fprintf(w, "attestations for each pod start: %v (bound 1)\n", f.Attestations)
	}
	if f.PSS != 0 {
		fmt.Fprintf(w, "sum of PSS of the guest's processes: %.1f MiB (bound 40 MB)\n", float64(f.PSS)/1024)
	}
}

func (f *figures) write(path string) error {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
