package libos

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
)

func spec(line string) *launch.Spec {
	return &launch.Spec{TEE: launch.SGXSim, Kernel: launch.File{Path: "k"}, Initrd: launch.File{Path: "i"}, Cmdline: line, MemoryMiB: 256, VCPUs: 2}
}

func TestCommand(t *testing.T) {
	c, err := ParseCommand(DefaultCmdline(1700000000) + " env:A=b x=1")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.Flags, Flags) || !slices.Equal(c.Args, []string{AgentArg, "floor=1700000000", "x=1"}) || !slices.Equal(c.Env, []string{"A=b"}) {
		t.Errorf("%+v", c)
	}
	for name, line := range map[string]string{
		"no separator": "-a=b", "empty": "", "a word among the flags": "-a=b run -- x", "the launcher's flag": "-root=/x -- y", "the same with two": "--root=/x -- y",
		"blanks": "-a=b  -- x", "a flag without a name": "-=b -- x", "long": strings.Repeat("-a ", 2000) + "-- x",
	} {
		if _, err := ParseCommand(line); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What is started is what is measured: a running runtime's arguments give back the
// flags, and nothing else is taken for one.
func TestRunning(t *testing.T) {
	c, err := ParseCommand(DefaultCmdline(1))
	if err != nil {
		t.Fatal(err)
	}
	args := RunArgs(c, "/s", "/b", "id")
	r, err := ParseRunning(args)
	if err != nil || !slices.Equal(r.Flags, c.Flags) || r.Bundle != "/b" {
		t.Fatalf("%+v, %v", r, err)
	}
	for i := range args {
		if args[i] == "id" || strings.HasPrefix(args[i], "-root=") {
			continue // the sandbox's own, not measured
		}
		changed := slices.Clone(args)
		changed[i] += "x"
		if strings.HasPrefix(args[i], "-bundle=") {
			continue // another bundle is read and measured
		}
		r, err := ParseRunning(changed)
		if err == nil && slices.Equal(r.Flags, c.Flags) {
			t.Errorf("%s: unnoticed", changed[i])
		}
	}
	for name, bad := range map[string][]string{
		"more at the end": append(slices.Clone(args), "more"), "nothing": nil, "only run": {"run"},
		"another command": slices.Replace(slices.Clone(args), len(args)-6, len(args)-5, "exec"),
		"a second root":   slices.Insert(slices.Clone(args), 1, "-root=/other"),
		"detached":        slices.Insert(slices.Clone(args), len(args)-1, "-detach"),
	} {
		if _, err := ParseRunning(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	words, err := SplitArguments([]byte("runsc\x00" + strings.Join(args, "\x00") + "\x00"))
	if err != nil || !slices.Equal(words, args) {
		t.Errorf("%q, %v", words, err)
	}
	if _, err := SplitArguments([]byte("runsc\x00")); err == nil {
		t.Error("no arguments: accepted")
	}
}

// Everything that changes what runs inside changes the manifest.
func TestManifest(t *testing.T) {
	const a, b = "6923dd1bc0460082c5d55a831908c24a282860b7f1cd6c2b79cf1bc8857c639c", "21b9b0e2e90ed3c1c8a4eb1a0d50e9eb2a87a3d0e1f4b7d7a4ae5a6a1dcb3d5c"
	encode := func(s *launch.Spec, runtime, agent string) string {
		t.Helper()
		m, err := Expected(s, runtime, agent)
		if err != nil {
			t.Fatal(err)
		}
		e, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return string(e)
	}
	line := DefaultCmdline(1)
	was := encode(spec(line), a, b)
	if again := encode(spec(line), a, b); again != was {
		t.Errorf("%s\n%s", was, again)
	}
	more, less := spec(line), spec(line)
	more.MemoryMiB, less.VCPUs = 384, 1
	for name, now := range map[string]string{
		"runtime": encode(spec(line), b, b), "agent": encode(spec(line), a, a), "argument": encode(spec(line+" evil=1"), a, b),
		"environment": encode(spec(line+" env:A=b"), a, b), "flag": encode(spec("-debug "+line), a, b), "memory": encode(more, a, b), "CPUs": encode(less, a, b),
	} {
		if now == was {
			t.Errorf("another %s: the same manifest", name)
		}
	}
	if _, err := (&Manifest{Runtime: a, Config: a, Agent: "A" + a[1:]}).Encode(); err == nil {
		t.Error("a digest in capitals: accepted")
	}
	if _, err := (&Manifest{Runtime: a, Config: a}).Encode(); err == nil {
		t.Error("no agent: accepted")
	}
}

func TestConfig(t *testing.T) {
	b, err := Config(spec(DefaultCmdline(7) + " env:A=b"))
	if err != nil {
		t.Fatal(err)
	}
	var c config
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.Process.Args, []string{"/init", AgentArg, "floor=7"}) || !slices.Equal(c.Process.Env, []string{"A=b"}) || c.Linux.Resources.Memory.Limit != 256<<20 {
		t.Errorf("%s", b)
	}
	if !slices.ContainsFunc(c.Linux.Namespaces, func(n namespace) bool { return n.Type == "network" && n.Path == ownNetwork }) {
		t.Errorf("the runtime would make a network of its own: %s", b)
	}
}

func FuzzParse(f *testing.F) {
	c, err := ParseCommand(DefaultCmdline(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("runsc\x00" + strings.Join(RunArgs(c, "/s", "/b", "id"), "\x00") + "\x00"))
	f.Add([]byte(DefaultCmdline(1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseCommand(string(b)); err == nil {
			r, err := ParseRunning(RunArgs(c, "/s", "/b", "id"))
			if slices.Contains(c.Flags, "run") {
				t.Fatalf("%q is a flag", c.Flags)
			}
			if err != nil || !slices.Equal(r.Flags, c.Flags) {
				t.Fatalf("%q: %+v, %v", b, r, err)
			}
		}
		args, err := SplitArguments(b)
		if err != nil {
			return
		}
		r, err := ParseRunning(args)
		if err == nil && (r.Bundle == "" || !strings.HasPrefix(args[0], "-root=")) {
			t.Errorf("%q: %+v", args, r)
		}
	})
}
