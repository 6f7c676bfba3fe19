package seccomp

import (
	"encoding/binary"
	"testing"
)

// run interprets a program as the kernel would, on struct seccomp_data.
func run(t *testing.T, code []Instruction, nr, arch uint32, args ...uint64) Action {
	t.Helper()
	data := make([]byte, 64)
	binary.LittleEndian.PutUint32(data[offNr:], nr)
	binary.LittleEndian.PutUint32(data[offArch:], arch)
	for i, a := range args {
		binary.LittleEndian.PutUint64(data[offArgs+8*i:], a)
	}
	var acc uint32
	for pc := 0; pc < len(code); pc++ {
		i := code[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		}
		switch i.Code {
		case ldAbs:
			acc = binary.LittleEndian.Uint32(data[i.K:])
		case ja:
			pc += int(i.K)
		case andK:
			acc &= i.K
		case jeqK:
			jump(acc == i.K)
		case jgtK:
			jump(acc > i.K)
		case jgeK:
			jump(acc >= i.K)
		case retK:
			return Action(i.K)
		default:
			t.Fatalf("instruction %x", i.Code)
		}
	}
	t.Fatal("ran off the end")
	return 0
}

func compile(t *testing.T, p *Profile) []Instruction {
	t.Helper()
	code, err := p.Compile()
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func TestComparisons(t *testing.T) {
	const big = 5<<32 | 7
	values := []uint64{0, 6, 7, 8, 4<<32 | 9, 5<<32 | 6, big, 5<<32 | 8, 6 << 32, ^uint64(0)}
	holds := map[Op]func(v uint64) bool{
		Equal: func(v uint64) bool { return v == big }, NotEqual: func(v uint64) bool { return v != big },
		Less: func(v uint64) bool { return v < big }, LessOrEqual: func(v uint64) bool { return v <= big },
		Greater: func(v uint64) bool { return v > big }, GreaterOrEqual: func(v uint64) bool { return v >= big },
		MaskedEqual: func(v uint64) bool { return v&big == 3<<0 },
	}
	for op, f := range holds {
		code := compile(t, &Profile{Default: Errno(1), Rules: []Rule{
			{Names: []string{"dup"}, Args: []Arg{{Index: 2, Op: op, Value: big, ValueTwo: 3}}, Action: Allow},
			{Names: []string{"getpid"}, Action: Allow},
		}})
		for _, v := range append(values, 3) {
			want := Errno(1)
			if f(v) {
				want = Allow
			}
			if got := run(t, code, syscalls["dup"], auditArchX8664, 0, 0, v); got != want {
				t.Errorf("op %d, value %#x: %#x, want %#x", op, v, got, want)
			}
		}
		if got := run(t, code, syscalls["getpid"], auditArchX8664); got != Allow {
			t.Errorf("op %d: the next rule gives %#x", op, got)
		}
	}
}

func TestEveryNumberGetsItsAction(t *testing.T) {
	code := compile(t, &Profile{Default: KillProcess, Rules: []Rule{
		{Names: []string{"read", "write", "close", "getpid", "exit_group"}, Action: Allow},
		{Names: []string{"open"}, Action: Errno(13)},
	}})
	want := map[uint32]Action{0: Allow, 1: Allow, 3: Allow, 39: Allow, 231: Allow, 2: Errno(13)}
	for nr := range uint32(600) {
		w, ok := want[nr]
		if !ok {
			w = KillProcess
		}
		if got := run(t, code, nr, auditArchX8664); got != w {
			t.Errorf("call %d: %#x, want %#x", nr, got, w)
		}
	}
}

// The rules as they stand, without a compiler: conditional ones first.
func (p *Profile) decide(nr uint32, arg uint64) Action {
	for _, plain := range []bool{false, true} {
		for _, r := range p.Rules {
			for _, name := range r.Names {
				if n, ok := syscalls[name]; ok && n == nr && (len(r.Args) == 0) == plain && (plain || arg&r.Args[0].Value == r.Args[0].ValueTwo) {
					return r.Action
				}
			}
		}
	}
	return p.Default
}

func TestProgramsDecideAsTheirRules(t *testing.T) {
	masked := func(nr string, act Action, mask, is uint64) Rule {
		return Rule{Names: []string{nr}, Args: []Arg{{Index: 0, Op: MaskedEqual, Value: mask, ValueTwo: is}}, Action: act}
	}
	var all, odd []string
	for name, nr := range syscalls {
		all = append(all, name)
		if nr%2 == 1 {
			odd = append(odd, name)
		}
	}
	long := &Profile{Default: KillProcess} // with jumps of more than 255 instructions
	for _, name := range odd {
		long.Rules = append(long.Rules, masked(name, Errno(7), 1, 1), masked(name, Allow, 2, 2))
	}
	for name, p := range map[string]*Profile{
		"odd":            {Default: Errno(1), Rules: []Rule{{Names: odd, Action: Allow}}},
		"all":            {Default: Errno(1), Rules: []Rule{{Names: all, Action: Allow}}},
		"none":           {Default: Errno(1)},
		"two actions":    {Default: Errno(1), Rules: []Rule{{Names: odd, Action: Errno(2)}, {Names: all, Action: Allow}}},
		"in their order": {Default: Errno(1), Rules: []Rule{{Names: []string{"write"}, Action: Allow}, {Names: []string{"read"}, Action: Errno(13)}, {Names: []string{"read"}, Action: Allow}}},
		"conditional":    {Default: Errno(1), Rules: []Rule{masked("read", Errno(3), 1, 1), masked("read", Errno(4), 1, 0), masked("close", Allow, 4, 4), {Names: []string{"read", "write"}, Action: Allow}}},
		"many of them":   long,
	} {
		code := compile(t, p)
		for nr := range uint32(700) {
			for arg := range uint64(4) {
				if got, want := run(t, code, nr, auditArchX8664, arg), p.decide(nr, arg); got != want {
					t.Fatalf("%s: call %d(%d): %#x, want %#x", name, nr, arg, got, want)
				}
			}
		}
	}
}

func TestForeignABIsNeverPass(t *testing.T) {
	for _, def := range []Action{Allow, Errno(1), KillProcess} {
		code := compile(t, &Profile{Default: def, Rules: []Rule{{Names: []string{"read"}, Action: Allow}}})
		for _, c := range []struct{ nr, arch uint32 }{{0, 0x40000003}, {x32Bit, auditArchX8664}, {x32Bit | 1, auditArchX8664}, {^uint32(0), auditArchX8664}} {
			if got := run(t, code, c.nr, c.arch); got == Allow {
				t.Errorf("default %#x: call %#x of %#x passes", def, c.nr, c.arch)
			}
		}
	}
}

func TestRuntimeDefault(t *testing.T) {
	plain := compile(t, RuntimeDefault(nil))
	admin := compile(t, RuntimeDefault([]string{"CAP_SYS_ADMIN"}))
	t.Logf("%d instructions", len(plain))
	for _, c := range []struct {
		call         string
		arg          uint64
		plain, admin Action
	}{
		{"read", 0, Allow, Allow},
		{"execve", 0, Allow, Allow},
		{"mount", 0, Errno(1), Allow},
		{"unshare", 0, Errno(1), Allow},
		{"keyctl", 0, Errno(1), Errno(1)},
		{"io_uring_setup", 0, Errno(1), Errno(1)},
		{"kexec_load", 0, Errno(1), Errno(1)},
		{"clone", 0x11, Allow, Allow},                 // SIGCHLD alone
		{"clone", 0x10000000 | 0x11, Errno(1), Allow}, // CLONE_NEWUSER
		{"clone3", 0, Errno(38), Allow},
		{"personality", 0, Allow, Allow},
		{"personality", 0x40000, Errno(1), Errno(1)}, // ADDR_NO_RANDOMIZE
		{"socket", 2, Allow, Allow},
		{"socket", 40, Errno(1), Errno(1)},         // AF_VSOCK
		{"socket", 1<<32 | 40, Errno(1), Errno(1)}, // the same to the kernel
		{"socket", 1<<32 | 2, Allow, Allow},
	} {
		if got := run(t, plain, syscalls[c.call], auditArchX8664, c.arg); got != c.plain {
			t.Errorf("%s(%#x): %#x, want %#x", c.call, c.arg, got, c.plain)
		}
		if got := run(t, admin, syscalls[c.call], auditArchX8664, c.arg); got != c.admin {
			t.Errorf("with CAP_SYS_ADMIN: %s(%#x): %#x, want %#x", c.call, c.arg, got, c.admin)
		}
	}
	for name := range withheld {
		if _, ok := syscalls[name]; !ok {
			t.Errorf("the profile withholds %s, which the table does not know", name)
		}
	}
}

func TestBadRules(t *testing.T) {
	for name, r := range map[string]Rule{
		"unknown call":     {Names: []string{"no_such_call"}, Action: KillProcess},
		"unknown argument": {Names: []string{"read"}, Args: []Arg{{Index: 6}}, Action: Allow},
		"unknown operator": {Names: []string{"read"}, Args: []Arg{{Op: 99}}, Action: Allow},
	} {
		if _, err := (&Profile{Default: Errno(1), Rules: []Rule{r}}).Compile(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// A profile for several architectures allows calls that this one lacks.
	if _, err := (&Profile{Default: Errno(1), Rules: []Rule{{Names: []string{"chown32"}, Action: Allow}}}).Compile(); err != nil {
		t.Error(err)
	}
}
