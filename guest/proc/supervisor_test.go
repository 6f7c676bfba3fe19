package proc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const probeName = "coffer-test-probe"

func TestMain(m *testing.M) {
	if os.Args[0] == probeName {
		os.Exit(probe(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// probe is the helper process under test: it says what is left to it.
func probe(args []string) int {
	status, err := os.Open("/proc/thread-self/status")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if err := Confine(); err != nil {
		fmt.Println("confine:", err)
		return 1
	}
	switch args[0] {
	case "status":
		for s := bufio.NewScanner(status); s.Scan(); {
			if f := strings.Fields(s.Text()); len(f) > 1 {
				fmt.Println(strings.Join(f, " "))
			}
		}
		_, err := os.Stat("/only-here")
		fmt.Println("root:", err == nil)
		_, err = unix.Socket(40, unix.SOCK_STREAM, 0) // AF_VSOCK: kept from us by the filter
		fmt.Println("vsock:", err)
		var core unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_CORE, &core)
		dumpable, _ := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		fmt.Println("core:", core.Max, "dumpable:", dumpable)
		fmt.Println("chroot:", unix.Chroot("/"))
	case "exit":
		return 5
	case "sleep":
		fmt.Println("sleeping")
		time.Sleep(time.Hour)
	}
	return 0
}

func supervisor(t *testing.T) *Supervisor {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to drop privileges")
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r := NewReaper()
	go r.Run(ctx)
	return &Supervisor{Exe: "/proc/self/exe", Reaper: r, Log: slog.New(slog.DiscardHandler)}
}

// output runs a helper and gives what it prints and its exit code.
func output(t *testing.T, s *Supervisor, spec *Spec) (string, int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	spec.Stdout = w
	c, err := s.Start(spec)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := c.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	return string(b), c.ExitCode()
}

func TestHelperHasWhatItsSpecSays(t *testing.T) {
	s := supervisor(t)
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	// The way there must be open for another user, and else stay as it is: /tmp is on it.
	for d := root; d != "/"; d = parent(d) {
		if fi, err := os.Stat(d); err == nil && fi.Mode()&0o005 != 0o005 {
			_ = os.Chmod(d, fi.Mode()|0o005)
		}
	}
	if err := os.WriteFile(root+"/only-here", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spec Spec
		want []string
	}{
		"nothing": {Spec{UID: 64001, GID: 64001, Namespaces: unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET},
			[]string{"Uid: 64001 64001 64001 64001", "Gid: 64001 64001 64001 64001", "CapInh: 0000000000000000", "CapPrm: 0000000000000000", "CapEff: 0000000000000000", "CapBnd: 0000000000000000", "CapAmb: 0000000000000000", "NoNewPrivs: 1", "root: false", "vsock: operation not permitted", "chroot: operation not permitted"}},
		"a user with one capability, for keys": {Spec{UID: 64001, GID: 64002, Groups: []uint32{64003}, Capabilities: []string{"CAP_IPC_LOCK"}, NoDump: true, Locked: true},
			[]string{"Gid: 64002 64002 64002 64002", "Groups: 64003", "CapPrm: 0000000000004000", "CapEff: 0000000000004000", "CapBnd: 0000000000004000", "core: 0 dumpable: 0"}},
		"root with some, shut in": {Spec{Capabilities: []string{"CAP_CHOWN", "CAP_MKNOD"}, Root: root},
			[]string{"Uid: 0 0 0 0", "CapPrm: 0000000008000001", "CapEff: 0000000008000001", "CapAmb: 0000000008000001", "root: true", "chroot: operation not permitted"}},
		"a user, shut in": {Spec{UID: 64001, GID: 64001, Root: root},
			[]string{"Uid: 64001 64001 64001 64001", "CapPrm: 0000000000000000", "CapEff: 0000000000000000", "CapAmb: 0000000000000000", "root: true", "chroot: operation not permitted"}},
		"no filter": {Spec{UID: 64001, Unfiltered: true}, []string{"Seccomp: 0"}},
	} {
		c.spec.Name, c.spec.Args = probeName, []string{"status"}
		out, code := output(t, s, &c.spec)
		for _, w := range c.want {
			if !strings.Contains(out, w+"\n") {
				t.Errorf("%s: the process (exit %d) lacks %q and says\n%s", name, code, w, out)
			}
		}
	}
}

func parent(p string) string {
	i := strings.LastIndexByte(p, '/')
	if i <= 0 {
		return "/"
	}
	return p[:i]
}

func TestConfineRefusesStrangers(t *testing.T) {
	if err := Confine(); err == nil {
		t.Error("a process that init did not start is confined")
	}
}

func TestUnknownCapability(t *testing.T) {
	s := supervisor(t)
	if _, err := s.Start(&Spec{Name: probeName, Capabilities: []string{"CAP_ALL"}}); err == nil {
		t.Error("no error")
	}
}

func TestReaper(t *testing.T) {
	s := supervisor(t)
	if _, code := output(t, s, &Spec{Name: probeName, Args: []string{"exit"}}); code != 5 {
		t.Errorf("exit code %d", code)
	}
	// Many that end at once: none is lost, whoever gets to it first.
	var all []*Child
	for range 20 {
		c, err := s.Start(&Spec{Name: probeName, Args: []string{"exit"}})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, c := range all {
		if _, err := c.Wait(ctx); err != nil || c.ExitCode() != 5 {
			t.Errorf("exit code %d, %v", c.ExitCode(), err)
		}
		if err := c.Signal(syscall.SIGKILL); err != nil {
			t.Errorf("signal after the end: %v", err)
		}
	}
	c, err := s.Start(&Spec{Name: probeName, Args: []string{"sleep"}})
	if err != nil {
		t.Fatal(err)
	}
	short, stop := context.WithTimeout(ctx, 10*time.Millisecond)
	defer stop()
	if _, err := c.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for one that runs: %v", err)
	}
	if err := c.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if _, err := c.Wait(ctx); err != nil || c.ExitCode() != 137 {
		t.Errorf("exit code %d, %v", c.ExitCode(), err)
	}
}

func TestKeepRestartsWithPauses(t *testing.T) {
	s := supervisor(t)
	ctx, cancel := context.WithCancel(context.Background())
	starts := make(chan time.Time, 100)
	err := s.Keep(ctx, "probe", func() (*Spec, error) {
		starts <- time.Now()
		return &Spec{Name: probeName, Args: []string{"exit"}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var at []time.Time
	for range 4 {
		select {
		case s := <-starts:
			at = append(at, s)
		case <-time.After(20 * time.Second):
			t.Fatal("not started again")
		}
	}
	cancel()
	for i, want := range []time.Duration{minBackoff, 2 * minBackoff, 4 * minBackoff} {
		if d := at[i+1].Sub(at[i]); d < want {
			t.Errorf("start %d came after %s, before %s", i+2, d, want)
		}
	}
}
