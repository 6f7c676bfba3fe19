// Package agentns runs the guest agent in namespaces of this machine instead of
// a virtual machine, for tests of containers that need no kernel of their own. It
// needs root. Nothing of it is in a release binary.
//
// A test binary calls Main first in its TestMain: the processes of the agent are
// the test binary itself, executed again.
package agentns

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/guest/agent"
	"github.com/cofferproject/coffer/guest/agent/rtnetlink"
	"github.com/cofferproject/coffer/guest/container"
	"github.com/cofferproject/coffer/guest/proc"
	"github.com/cofferproject/coffer/test/agentdrive"
	"github.com/cofferproject/coffer/test/child"
)

const (
	initName     = "coffer-test-init"
	workloadName = "workload"
	socketName   = "agent.sock"
	configName   = "config.json"
)

type config struct {
	Policy *podpolicy.Policy // nil: none
	Layers []string          // of every image, the topmost first
}

// Main takes over where the process is one of the agent's own; workload is what
// the containers' program "/bin/workload" does, with its arguments.
func Main(workload func(args []string) int) {
	switch name := filepath.Base(os.Args[0]); name {
	case container.InitName, container.ExecName, container.PodInitName:
		os.Exit(container.Main(name))
	case workloadName:
		os.Exit(workload(os.Args[1:]))
	case initName:
		if err := initMain(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, "agentns:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// Start starts an agent with the policy; every image is layers (the topmost
// first). The agent ends with the test.
func Start(t testing.TB, policy *podpolicy.Policy, layers ...string) *agentdrive.Agent {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for namespaces")
	}
	dir := t.TempDir()
	b, err := json.Marshal(config{policy, layers})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, configName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	var console bytes.Buffer
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{initName, dir}
	cmd.Env = []string{}
	cmd.Stdout, cmd.Stderr = &console, &console
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
	}
	if err := child.Start(cmd, unix.SIGKILL); err != nil {
		t.Skipf("needs namespaces: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("agent's console:\n%s", console.String())
		}
		removeGroups(dir)
	})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	a, err := agentdrive.Dial(ctx, filepath.Join(dir, socketName))
	if err != nil {
		t.Fatalf("%v; console:\n%s", err, console.String())
	}
	t.Cleanup(a.Close)
	return a
}

// Layer makes a layer directory that holds the test binary as /bin/workload.
func Layer(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for namespaces")
	}
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if f, err := elf.NewFile(bytes.NewReader(b)); err == nil && f.Section(".interp") != nil {
		const why = "the test binary is its own workload and must be static: CGO_ENABLED=0"
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", workloadName), b, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func initMain(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, configName))
	if err != nil {
		return err
	}
	var cfg config
	if err := json.Unmarshal(b, &cfg); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	// The layers and the socket stay visible: they are below the test's directory.
	for _, m := range [][2]string{{"tmpfs", "/run"}, {"proc", "/proc"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m[1], err)
		}
	}
	group, err := cgroup(dir)
	if err != nil {
		return err
	}
	if c, err := rtnetlink.Open(); err == nil {
		_ = c.SetUp(1, true)
		c.Close()
	}
	state := "/run/coffer/containers"
	if err := os.MkdirAll(state, 0o755); err != nil {
		return err
	}
	l, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	reaper := proc.NewReaper()
	go reaper.Run(context.Background())
	server := agent.New(log)
	enforcer := podpolicy.NewEnforcer(cfg.Policy)
	rt, err := container.NewRuntime(container.Options{
		Exe: "/proc/self/exe", Reaper: reaper, CgroupRoot: group, StateDir: state,
		Exited: enforcer.Exited, OOM: server.OOM, Log: log,
	})
	if err != nil {
		return err
	}
	err = server.Activate(agent.Options{
		Policy: cfg.Policy, Enforcer: enforcer, Runtime: rt, Images: images(cfg.Layers),
		PowerOff: func() { os.Exit(0) }, Log: log,
	})
	if err != nil {
		return err
	}
	return server.Serve(context.Background(), l)
}

type images []string

func (i images) Prepare(context.Context, *podpolicy.Container) (*agent.Image, error) {
	return &agent.Image{Layers: i}, nil
}

// cgroup mounts the version 2 hierarchy and makes a group in it, with whatever
// controllers this machine has there.
func cgroup(test string) (string, error) {
	mnt := "/run/cgroup"
	if err := os.MkdirAll(mnt, 0o755); err != nil {
		return "", err
	}
	if err := unix.Mount("cgroup2", mnt, "cgroup2", 0, ""); err != nil {
		return "", fmt.Errorf("mounting cgroup2: %w", err)
	}
	dir := filepath.Join(mnt, groupName(test))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, c := range []string{"cpu", "memory", "pids", "io"} {
		for _, d := range []string{mnt, dir} {
			_ = os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("+"+c), 0)
		}
	}
	return dir, nil
}

// removeGroups deletes the groups of an agent that has ended.
func removeGroups(test string) {
	name := groupName(test)
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		for range 50 { // the kernel empties them a little later
			inner, _ := filepath.Glob(filepath.Join(root, name, "*", "cgroup.procs"))
			for _, i := range inner {
				_ = unix.Rmdir(filepath.Dir(i))
			}
			if err := unix.Rmdir(filepath.Join(root, name)); err != unix.EBUSY && err != unix.ENOTEMPTY {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func groupName(test string) string {
	return "coffer-test-" + strings.ReplaceAll(strings.Trim(test, "/"), "/", "-")
}
