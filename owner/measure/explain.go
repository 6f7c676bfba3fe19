package measure

import (
	"context"
	"fmt"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
)

// Reference is what was expected of a launch: reference values, and what their
// bundle says that they were computed for.
type Reference struct {
	Bundle   string // its name
	SignedBy string // key id; "": not signed
	Launch   *launch.Inputs
	Values   map[string]any
}

// Candidate is a launch that may be the one that was measured.
type Candidate struct {
	Spec   *launch.Spec
	Source string // whose word it is

	tried bool // nobody's word
}

// Question asks which input of a launch is not the expected one.
type Question struct {
	TEE        string         // wire name
	Claims     map[string]any // what the verifier has verified of the device
	References []Reference
	Candidates []Candidate
	Platform   *platform.Platform // for its images and firmware; nil: none is at hand
	Programs   []string           // of process TEEs that are at hand
}

// Explanation says which inputs of a launch are not those of the reference values.
// It explains and decides nothing: the trustee has judged. What it names is computed,
// not guessed: every register that it explains is exactly what the inputs give that
// it shows.
type Explanation struct {
	// Differences are the inputs that differ, when measured and now.
	Differences []Difference `json:"differences,omitempty"`
	// Proof says register by register what explains it.
	Proof []Proof `json:"proof,omitempty"`
	// Unexplained are registers that none of the launches explains that were tried.
	Unexplained []Unexplained `json:"unexplained,omitempty"`
	// Tried is how many launches were computed.
	Tried int `json:"tried"`
	// Against is what the launch was held against; nil: no reference values with
	// a launch that is known.
	Against *Against `json:"against,omitempty"`
	Notes   []string `json:"notes,omitempty"`
}

// Difference is one input that differs.
type Difference struct {
	Input Input `json:"input"`
	// Expected is what the reference values were computed for; of initdata, what
	// this launch asked for.
	Expected string   `json:"expected"`
	Launched string   `json:"launched"`
	Changes  []string `json:"changes,omitempty"` // of the command line: "evil=1 was added"
	Fields   []string `json:"fields"`            // the registers in which it shows
}

// Proof is one register whose value was computed anew.
type Proof struct {
	Field    string         `json:"field"`
	Measured string         `json:"measured"`
	Source   string         `json:"source"` // whose word the inputs were before the value bore it out
	Launch   *launch.Inputs `json:"launch"`
	Of       []Input        `json:"of"` // the inputs that go into it: of others it says nothing
}

// Unexplained is one register that nothing explains.
type Unexplained struct {
	Field    string  `json:"field"`
	Measured string  `json:"measured"`
	Of       []Input `json:"of"`
}

// Against is the launch that the reference values were computed for.
type Against struct {
	Bundle   string         `json:"bundle"`
	SignedBy string         `json:"signed_by,omitempty"`
	Launch   *launch.Inputs `json:"launch"`
	// Verified: its files are at hand, and it does give the reference values.
	Verified bool `json:"verified"`
}

// Explain answers; nil where nothing that a launch decides was refused.
func Explain(ctx context.Context, q *Question) *Explanation {
	s := &search{q: q, known: map[string]string{}, found: map[string]*solved{}, measured: map[string]string{}}
	refused := s.refused()
	if len(refused) == 0 {
		return nil
	}
	s.want = refused
	s.platformFiles()
	out := &Explanation{}
	for c := range s.candidates(ctx) {
		if s.try(c) {
			break
		}
	}
	best := s.nearest(ctx, out)
	switch {
	case best != nil:
		refused = best.refused
		out.Against, out.Differences = best.against, best.differences
	case len(q.References) == 0:
		out.Notes = append(out.Notes, "no reference values of a launch of "+q.TEE+" count here")
	default:
		out.Notes = append(out.Notes, "no reference values that count say what launch they were computed for, or none that bears them out")
	}
	for _, f := range refused {
		if p := s.found[f.reference]; p != nil {
			out.Proof = append(out.Proof, Proof{s.name(f), s.measured[f.reference], p.source, p.inputs, f.of})
			continue
		}
		out.Unexplained = append(out.Unexplained, Unexplained{s.name(f), s.measured[f.reference], f.of})
	}
	if ctx.Err() != nil && len(out.Unexplained) > 0 {
		out.Notes = append(out.Notes, "the search was cut short")
	}
	out.Tried = s.tried
	out.Notes = append(out.Notes, s.faults...)
	return out
}

// solved is a launch that gives a register's value.
type solved struct {
	inputs *launch.Inputs
	source string
}

// search looks for launches that explain what was measured.
type search struct {
	q        *Question
	measured map[string]string  // by name of the reference value
	known    map[string]string  // files at hand: hex SHA-256 to path
	found    map[string]*solved // by name of the reference value
	asked    *launch.Inputs     // of the first candidate
	want     []field            // registers to explain
	tried    int
	faults   []string
}

func (s *search) name(f field) string { return s.q.TEE + "." + f.claim }

// refused gives the registers that some reference values do not accept; none where
// each is accepted by some, as a policy takes them together.
func (s *search) refused() []field {
	var some []field
	unaccepted := len(s.q.References) == 0
	for _, f := range fields[s.q.TEE] {
		v := f.at(s.q.Claims)
		if v == "" {
			continue
		}
		s.measured[f.reference] = v
		knows, refuses, accepts := false, len(s.q.References) == 0, false
		for i := range s.q.References {
			known, ok := f.gives(s.q.References[i].Values, v)
			knows, refuses, accepts = knows || known, refuses || known && !ok, accepts || ok
		}
		if refuses {
			some = append(some, f)
		}
		unaccepted = unaccepted || knows && !accepts
	}
	if !unaccepted {
		return nil
	}
	return some
}

func (s *search) refusedBy(r *Reference) []field {
	var out []field
	for _, f := range fields[s.q.TEE] {
		v := s.measured[f.reference]
		if known, ok := f.gives(r.Values, v); v != "" && known && !ok {
			out = append(out, f)
		}
	}
	return out
}

func (s *search) platformFiles() {
	for _, path := range s.q.Programs {
		if sum, err := programDigest(launch.File{Path: path}); err == nil {
			s.known[sum] = path
		}
	}
	p := s.q.Platform
	if p == nil {
		return
	}
	for _, fw := range p.TEEFirmware {
		s.known[fw.SHA256] = fw.Path
	}
	s.known[p.Firmware.SHA256] = p.Firmware.Code
	for _, im := range p.Images {
		s.known[im.KernelSHA256], s.known[im.InitrdSHA256] = im.Kernel, im.Initrd
	}
	delete(s.known, "")
}

// try measures a candidate and keeps the registers that it explains. It reports
// whether there is nothing left to explain.
func (s *search) try(c *Candidate) bool {
	r, err := Launch(c.Spec)
	if err != nil {
		if !c.tried {
			s.faults = append(s.faults, fmt.Sprintf("%s: it cannot be computed: %.300v", c.Source, err))
		}
		return false
	}
	s.tried++
	s.note(c.Spec, r.Launch)
	done := true
	for _, f := range s.want {
		if s.found[f.reference] == nil {
			if known, ok := f.gives(r.Values, s.measured[f.reference]); known && ok {
				s.found[f.reference] = &solved{r.Launch, c.Source}
			}
		}
		done = done && s.found[f.reference] != nil
	}
	return done
}

// note remembers the files of a launch.
func (s *search) note(spec *launch.Spec, in *launch.Inputs) {
	if s.asked == nil {
		s.asked = in
	}
	fw := spec.TEEFirmware.Path
	if fw == "" {
		fw = spec.Firmware.Path
	}
	for sum, path := range map[string]string{in.Kernel: spec.Kernel.Path, in.Initrd: spec.Initrd.Path, in.Firmware: fw} {
		if sum != "" && s.known[sum] == "" {
			s.known[sum] = path
		}
	}
}

// spec gives the launch of inputs whose files are at hand.
func (s *search) spec(in *launch.Inputs) (*launch.Spec, error) {
	out := &launch.Spec{TEE: launch.TEE(in.TEE), Cmdline: in.Cmdline, VCPUs: in.VCPUs, CPUModel: in.CPUModel, MemoryMiB: in.MemoryMiB}
	for _, f := range []struct {
		sum string
		to  *launch.File
	}{{in.Kernel, &out.Kernel}, {in.Initrd, &out.Initrd}, {in.Firmware, &out.TEEFirmware}} {
		if f.sum == "" {
			continue
		}
		path := s.known[f.sum]
		if path == "" {
			return nil, fmt.Errorf("no file with SHA-256 %s is at hand", f.sum)
		}
		*f.to = launch.File{Path: path, SHA256: f.sum}
	}
	if in.VMM != "" || in.SEVFeatures != 0 {
		out.SNP = &launch.SNPParams{VMM: in.VMM, Features: in.SEVFeatures}
	}
	return out, nil
}
