package measure

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/tee/snp/firmware"
)

// candidates gives launches to try: those that somebody says it was, those that
// the reference values name, then each of these with one thing changed that is
// changed most often. What goes into a digest as a file or a text that nobody
// names cannot be found by trying.
func (s *search) candidates(ctx context.Context) iter.Seq[*Candidate] {
	return func(yield func(*Candidate) bool) {
		var base []Candidate
		for i := range s.q.Candidates {
			c := &s.q.Candidates[i]
			base = append(base, *c)
			if ctx.Err() != nil || !yield(c) {
				return
			}
		}
		for i := range s.q.References {
			r := &s.q.References[i]
			if r.Launch == nil {
				continue
			}
			if spec, err := s.spec(r.Launch); err == nil {
				c := Candidate{Spec: spec, Source: "the launch of reference values " + r.Bundle, tried: true}
				base = append(base, c)
				if ctx.Err() != nil || !yield(&c) {
					return
				}
			}
		}
		seen := map[string]bool{}
		for _, b := range base {
			for _, v := range s.variations(b.Spec) {
				if v.of != "" && !s.decides(v.of) {
					continue
				}
				c := &v.Candidate
				key := fmt.Sprintf("%+v", *c.Spec)
				if seen[key] {
					continue
				}
				seen[key] = true
				if ctx.Err() != nil || !yield(c) {
					return
				}
			}
		}
	}
}

// variation is a launch that differs from a known one in one input; in a whole
// image where of is "".
type variation struct {
	Candidate
	of Input
}

// variations gives launches that differ from a known one in one respect. They are
// found by trying: nobody has named them.
func (s *search) variations(spec *launch.Spec) []variation {
	var out []variation
	add := func(of Input, what string, change func(*launch.Spec)) {
		c := *spec
		c.Initdata, c.Publish = nil, nil // in no register that is computed here
		change(&c)
		out = append(out, variation{Candidate{&c, "found by trying " + what, true}, of})
	}
	if p := s.q.Platform; p != nil {
		for _, name := range p.ImageNames() {
			im := p.Images[name]
			add("", "the guest images at hand: "+name, func(c *launch.Spec) {
				c.Kernel, c.Initrd, c.Cmdline = launch.File{Path: im.Kernel}, launch.File{Path: im.Initrd}, im.Cmdline
			})
		}
		for _, name := range slices.Sorted(maps.Keys(p.TEEFirmware)) {
			if name == spec.TEE.Firmware() {
				add(Firmware, "the firmware at hand", func(c *launch.Spec) { c.TEEFirmware = launch.File{Path: p.TEEFirmware[name].Path} })
			}
		}
	}
	for _, m := range firmware.Models() {
		add(CPUModel, "vCPU models", func(c *launch.Spec) { c.CPUModel = m })
	}
	for _, mib := range launch.MemoryLadderMiB {
		add(Memory, "memory sizes", func(c *launch.Spec) { c.MemoryMiB = mib })
	}
	for n := 1; n <= launch.MaxVCPUs; n++ {
		add(VCPUs, "vCPU counts", func(c *launch.Spec) { c.VCPUs = n })
	}
	return out
}

// decides reports whether an input goes into a register that is not explained yet.
func (s *search) decides(what Input) bool {
	return slices.ContainsFunc(s.want, func(f field) bool { return s.found[f.reference] == nil && slices.Contains(f.of, what) })
}
