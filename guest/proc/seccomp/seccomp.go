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
// unconditional ones, each in their order; the first that matches decides. A call's
// number is found by a binary search: a kernel that has no table of what a filter
// always allows runs it for every call, and one that has makes it by running the
// filter for every number (gVisor does at each filter's start).
func (p *Profile) Compile() ([]Instruction, error) {
	conditional := map[uint32][]Instruction{}
	actions := map[uint32]Action{}
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
				if _, decided := actions[nr]; !decided {
					actions[nr] = r.Action
				}
				continue
			}
			if len(r.Args) > maxRuleArgs {
				return nil, fmt.Errorf("seccomp rule %d: %d conditions, at most %d", i, len(r.Args), maxRuleArgs)
			}
			body, err := conditions(r.Args, r.Action)
			if err != nil {
				return nil, fmt.Errorf("seccomp rule %d: %w", i, err)
			}
			conditional[nr] = append(conditional[nr], body...)
		}
	}
	var a assembler
	a.checkArchitecture(p.Default)
	a.code = append(a.code, search(segments(conditional, actions, p.Default))...)
	if len(a.code) > maxInstructions {
		return nil, fmt.Errorf("seccomp profile: %d instructions, at most %d", len(a.code), maxInstructions)
	}
	return a.code, nil
}

func permissive(a Action) bool { return a == Allow || a == Log }

// segment is what happens to the calls from number lo to the next segment's.
type segment struct {
	lo          uint32
	conditional []Instruction // tried first
	action      Action
}

// segments cuts the numbers, which begin at 0 and have no end, to as few pieces as
// there are.
func segments(conditional map[uint32][]Instruction, actions map[uint32]Action, def Action) []segment {
	var all []uint32
	for nr := range conditional {
		all = append(all, nr)
	}
	for nr := range actions {
		all = append(all, nr)
	}
	slices.Sort(all)
	var out []segment
	add := func(s segment) {
		if n := len(out); n > 0 && out[n-1].lo == s.lo {
			out = out[:n-1] // nothing was said of it yet
		}
		if n := len(out); n > 0 && out[n-1].action == s.action && out[n-1].conditional == nil && s.conditional == nil {
			return
		}
		out = append(out, s)
	}
	add(segment{action: def})
	for _, nr := range slices.Compact(all) {
		s := segment{nr, conditional[nr], def}
		if act, ok := actions[nr]; ok {
			s.action = act
		}
		add(s)
		add(segment{lo: nr + 1, action: def}) // until its turn comes
	}
	return out
}

// search finds the segment of the number in A and does what it says. Programs only
// jump ahead.
func search(s []segment) []Instruction {
	var a assembler
	if len(s) == 1 {
		a.code = slices.Clone(s[0].conditional)
		a.ret(s[0].action)
		return a.code
	}
	mid := len(s) / 2
	below, above := search(s[:mid]), search(s[mid:])
	if len(below) <= 255 {
		a.emit(jgeK, uint8(len(below)), 0, s[mid].lo)
	} else {
		a.emit(jgeK, 0, 1, s[mid].lo)
		a.emit(ja, 0, 0, uint32(len(below)))
	}
	return append(append(a.code, below...), above...)
}
