// Package seccomp compiles seccomp profiles to the kernel's filter programs,
// in pure Go, for x86_64: what containers and the guest's own helpers may ask
// of the kernel.
//
// Invariants: an unknown system call name, action or operator in a profile is an
// error, unless the rule would only have allowed more; calls of another
// architecture or of the x32 ABI never match a rule and get the default action
// (EPERM or stricter).
//
// Trust zone: guest.
package seccomp

import (
	"fmt"
	"slices"
)

// Action is what happens to a call, as the kernel encodes it.
type Action uint32

// Actions.
const (
	KillProcess Action = 0x80000000
	KillThread  Action = 0x00000000
	Trap        Action = 0x00030000
	errnoBase   Action = 0x00050000
	Log         Action = 0x7ffc0000
	Allow       Action = 0x7fff0000
)

// Errno gives the action that fails a call with errno n.
func Errno(n uint16) Action { return errnoBase | Action(n) }

// Op compares a system call argument.
type Op int

// Comparisons of unsigned 64-bit arguments.
const (
	Equal Op = iota
	NotEqual
	Less
	LessOrEqual
	Greater
	GreaterOrEqual
	MaskedEqual // argument & Value == ValueTwo
)

// Arg is one condition on an argument, 0..5.
type Arg struct {
	Index    uint
	Op       Op
	Value    uint64
	ValueTwo uint64
}

// Rule gives calls an action where all conditions hold.
type Rule struct {
	Names  []string
	Args   []Arg
	Action Action
}

// Profile is a list of rules, conditional ones first, and what happens to the rest.
type Profile struct {
	Default Action
	Rules   []Rule
}

// maxInstructions is the kernel's limit (BPF_MAXINSNS).
const maxInstructions = 4096

// maxRuleArgs is how many conditions a rule can have (one per argument and one spare).
const maxRuleArgs = 12

// Compile gives the filter program. Conditional rules are tried before
// unconditional ones, each in their order; the first that matches decides.
func (p *Profile) Compile() ([]Instruction, error) {
	var a assembler
	a.checkArchitecture(p.Default)
	plain := map[Action][]uint32{}
	var order []Action
	for i, r := range p.Rules {
		for _, name := range r.Names {
			nr, ok := syscalls[name]
			if !ok {
				if permissive(r.Action) {
					continue // profiles list calls of other architectures
				}
				return nil, fmt.Errorf("seccomp rule %d: unknown system call %q", i, name)
			}
			if len(r.Args) == 0 {
				if _, seen := plain[r.Action]; !seen {
					order = append(order, r.Action)
				}
				plain[r.Action] = append(plain[r.Action], nr)
				continue
			}
			if len(r.Args) > maxRuleArgs {
				return nil, fmt.Errorf("seccomp rule %d: %d conditions, at most %d", i, len(r.Args), maxRuleArgs)
			}
			if err := a.conditional(nr, r.Args, r.Action); err != nil {
				return nil, fmt.Errorf("seccomp rule %d: %w", i, err)
			}
		}
	}
	for _, act := range order {
		for _, span := range spans(plain[act]) {
			a.span(span[0], span[1], act)
		}
	}
	a.ret(p.Default)
	if len(a.code) > maxInstructions {
		return nil, fmt.Errorf("seccomp profile: %d instructions, at most %d", len(a.code), maxInstructions)
	}
	return a.code, nil
}

func permissive(a Action) bool { return a == Allow || a == Log }

// spans merges numbers to closed intervals.
func spans(nrs []uint32) [][2]uint32 {
	slices.Sort(nrs)
	nrs = slices.Compact(nrs)
	var out [][2]uint32
	for _, n := range nrs {
		if l := len(out); l > 0 && out[l-1][1]+1 == n {
			out[l-1][1] = n
			continue
		}
		out = append(out, [2]uint32{n, n})
	}
	return out
}
