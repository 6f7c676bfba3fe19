package measure

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/cofferproject/coffer/api/launch"
)

// shown gives an input for people.
func shown(what Input, in *launch.Inputs) string {
	file := func(sum string) string {
		if sum == "" {
			return "none"
		}
		return "SHA-256 " + sum
	}
	switch what {
	case Firmware:
		return file(in.Firmware)
	case Kernel:
		return file(in.Kernel)
	case Initrd:
		return file(in.Initrd)
	case Cmdline:
		return in.Cmdline
	case VCPUs:
		return fmt.Sprint(in.VCPUs)
	case CPUModel:
		return in.CPUModel
	case Memory:
		return fmt.Sprintf("%d MiB", in.MemoryMiB)
	case VMM:
		return cmp.Or(in.VMM, "qemu")
	case SEVFeatures:
		return fmt.Sprintf("%#x", cmp.Or(in.SEVFeatures, launch.SNPActive))
	}
	return ""
}

// Fact is one line of an explanation for people.
type Fact struct{ Name, Value string }

// Facts puts an explanation into words.
func (e *Explanation) Facts() []Fact {
	var out []Fact
	for _, d := range e.Differences {
		out = append(out, Fact{"differs", d.words()})
	}
	for _, p := range e.Proof {
		v := p.Field + " is exactly what this launch gives"
		if len(e.Differences) == 0 {
			v += " (" + describe(p.Launch, p.Of) + ")"
		}
		out = append(out, Fact{"computed", v + ": " + p.Source})
	}
	for _, u := range e.Unexplained {
		v := fmt.Sprintf("%s, which is made of %s: ", u.Field, list(u.Of))
		if e.Tried == 0 {
			v += "nothing could be computed, since the files of no launch are at hand"
		} else {
			v += fmt.Sprintf("no input that coffer knows of explains it (%d launches computed): something else was launched", e.Tried)
		}
		out = append(out, Fact{"unexplained", v})
	}
	if a := e.Against; a != nil {
		v := "the launch that reference values " + a.Bundle
		if a.SignedBy != "" {
			v += ", signed with key " + a.SignedBy + ","
		}
		v += " say they were computed for"
		if a.Verified {
			v += "; computed anew, it gives them"
		} else {
			v += "; not computed anew, since its files are not at hand"
		}
		out = append(out, Fact{"against", v})
	}
	for _, n := range e.Notes {
		out = append(out, Fact{"note", n})
	}
	return out
}

func (d *Difference) words() string {
	const expected = "expected by the reference values"
	switch {
	case d.Input == Initdata:
		return fmt.Sprintf("%s: %s asked for, %s launched", d.Input, d.Expected, d.Launched)
	case d.Input != Cmdline:
		return fmt.Sprintf("%s: %s %s, %s launched", d.Input, d.Expected, expected, d.Launched)
	case len(d.Changes) > 0:
		return fmt.Sprintf("%s: %s; %q %s, %q launched", d.Input, strings.Join(d.Changes, ", "), d.Expected, expected, d.Launched)
	}
	return fmt.Sprintf("%s: %q %s, %q launched", d.Input, d.Expected, expected, d.Launched)
}

// Describe puts all inputs of a launch into words.
func Describe(in *launch.Inputs) string {
	all := []Input{Firmware, Kernel, Initrd, Cmdline, VCPUs, CPUModel, Memory, VMM, SEVFeatures}
	return in.TEE + ": " + describe(in, slices.DeleteFunc(all, func(what Input) bool {
		return what == Firmware && in.Firmware == "" || what == CPUModel && in.CPUModel == "" || what == VMM && in.VMM == "" || what == SEVFeatures && in.SEVFeatures == 0
	}))
}

func describe(in *launch.Inputs, of []Input) string {
	var out []string
	for _, what := range of {
		v := shown(what, in)
		if what == Cmdline {
			v = fmt.Sprintf("%q", v)
		}
		out = append(out, string(what)+" "+v)
	}
	return strings.Join(out, ", ")
}

func list(of []Input) string {
	var out []string
	for _, what := range of {
		out = append(out, string(what))
	}
	return strings.Join(out, ", ")
}
