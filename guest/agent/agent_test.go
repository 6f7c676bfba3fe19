package agent_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cofferproject/coffer/api/agentpb"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/test/agentdrive"
	"github.com/cofferproject/coffer/test/agentns"
)

// pod is one pod under test.
type pod struct {
	*agentdrive.Agent
	t      *testing.T
	policy *podpolicy.Policy
}

const image = "registry.example/work@sha256:0000000000000000000000000000000000000000000000000000000000000000"

// app is a container that runs the workload with args.
func app(name string, args ...string) podpolicy.Container {
	path := "/bin"
	return podpolicy.Container{
		Name: name, Image: image, ManifestDigest: strings.TrimPrefix(image, "registry.example/work@"),
		Args: append([]string{"workload"}, args...),
		Env:  []podpolicy.EnvVar{{Name: "PATH", Value: &path}},
		Cwd:  "/", Seccomp: "runtime-default", Restart: "Never", Logs: true,
		Capabilities: []string{"CAP_CHOWN", "CAP_KILL"},
	}
}

func ctxFor(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// start makes a pod of the containers and creates its sandbox.
func start(t *testing.T, layer string, edit func(*podpolicy.Policy), containers ...podpolicy.Container) *pod {
	t.Helper()
	policy := &podpolicy.Policy{
		Version: podpolicy.Version, Pod: "default/test", Hostname: "pod-host",
		Sandbox: podpolicy.Sandbox{ResolvConf: "host", ShmBytes: 1 << 20}, Containers: containers,
	}
	if edit != nil {
		edit(policy)
	}
	p := &pod{agentns.Start(t, policy, layer), t, policy}
	if _, err := p.CreateSandbox(ctxFor(t), policy.CreateSandboxRequest("pod1", []string{"nameserver 192.0.2.1"})); err != nil {
		t.Fatal(err)
	}
	return p
}

// env gives a container's environment; hashed values come from secrets.
func env(c *podpolicy.Container, secrets map[string]string) []string {
	var out []string
	for _, e := range c.Env {
		v := secrets[e.Name]
		if e.Value != nil {
			v = *e.Value
		}
		out = append(out, e.Name+"="+v)
	}
	return out
}

// create creates the container named name under the id.
func (p *pod) create(name, id string, secrets map[string]string) error {
	for i := range p.policy.Containers {
		if c := &p.policy.Containers[i]; c.Name == name {
			_, err := p.CreateContainer(ctxFor(p.t), p.policy.CreateContainerRequest(c, id, "pod1", env(c, secrets)))
			return err
		}
	}
	p.t.Fatalf("no container %s", name)
	return nil
}

func (p *pod) run(name string) string {
	p.t.Helper()
	if err := p.create(name, name, nil); err != nil {
		p.t.Fatal(err)
	}
	p.startContainer(name)
	out, err := p.Output(ctxFor(p.t), name, "")
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

func (p *pod) startContainer(id string) {
	p.t.Helper()
	if _, err := p.StartContainer(ctxFor(p.t), &agentpb.StartContainerRequest{ContainerId: id}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pod) wait(id, exec string) int {
	p.t.Helper()
	code, err := p.Wait(ctxFor(p.t), id, exec)
	if err != nil {
		p.t.Fatal(err)
	}
	return code
}

func (p *pod) remove(id string) {
	p.t.Helper()
	if _, err := p.RemoveContainer(ctxFor(p.t), &agentpb.RemoveContainerRequest{ContainerId: id, Timeout: 10}); err != nil {
		p.t.Fatal(err)
	}
}

func contains(t *testing.T, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("output is\n%s\nand lacks %q", got, want)
	}
}

func TestOutputExitCodeAndRemoval(t *testing.T) {
	p := start(t, agentns.Layer(t), nil, app("hello", "echo", "hello", "world"), app("err", "stderr", "oops"), app("three", "exit", "3"))
	if out := p.run("hello"); out != "hello world\n" {
		t.Errorf("output %q", out)
	}
	if code := p.wait("hello", ""); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.remove("hello")
	if err := p.create("err", "err", nil); err != nil {
		t.Fatal(err)
	}
	p.startContainer("err")
	if out, err := p.ErrorOutput(ctxFor(t), "err", "err"); err != nil || out != "oops\n" {
		t.Errorf("error output %q, %v", out, err)
	}
	p.run("three")
	// Any number may wait, also late, under either name of the first process.
	var wg sync.WaitGroup
	for _, exec := range []string{"", "three", "", "three"} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if code := p.wait("three", exec); code != 3 {
				t.Errorf("exit code %d", code)
			}
		}()
	}
	wg.Wait()
}

// TestSharedPIDs: the containers of a pod see each other's processes and outlive each
// other, nothing of the guest is among them, and orphans are reaped.
func TestSharedPIDs(t *testing.T) {
	share := func(p *podpolicy.Policy) { p.Sandbox.SharePIDs = true }
	look := app("look", "term")
	for _, command := range [][]string{{"pids"}, {"leave"}, {"kill", "workload", "sleep"}} {
		look.Exec = append(look.Exec, podpolicy.Exec{Args: append([]string{"workload"}, command...)})
	}
	p := start(t, agentns.Layer(t), share, app("work", "sleep"), look)
	for _, name := range []string{"work", "look"} {
		if err := p.create(name, name, nil); err != nil {
			t.Fatal(err)
		}
		p.startContainer(name)
		if _, err := p.ReadStdout(ctxFor(t), &agentpb.ReadStreamRequest{ContainerId: name, Len: 64}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	do := func(args ...string) string {
		t.Helper()
		n++
		id := fmt.Sprint("x", n)
		c := p.policy.Container("look")
		if _, err := p.ExecProcess(ctxFor(t), p.policy.ExecProcessRequest(c, "look", id, append([]string{"workload"}, args...), env(c, nil), false)); err != nil {
			t.Fatal(err)
		}
		out, err := p.Output(ctxFor(t), "look", id)
		if err != nil {
			t.Fatal(err)
		}
		p.wait("look", id)
		return out
	}
	out := do("pids")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], "1 coffer-pod-init ") || !strings.HasSuffix(lines[0], "root=false") {
		t.Errorf("the namespace's first process, two containers' and one exec'd are to be seen:\n%s", out)
	}
	contains(t, out, " workload sleep ")
	contains(t, out, " workload term ")
	do("leave")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if out = do("pids"); !strings.Contains(out, "exit-later") && !strings.Contains(out, " Z ") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("an orphan is left:\n%s", out)
		}
	}
	if out = do("kill", "workload", "sleep"); out != "<nil>\n" {
		t.Errorf("kill: %s", out)
	}
	if code := p.wait("work", ""); code != 137 {
		t.Errorf("exit code %d", code)
	}
	p.remove("work")
	if out = do("pids"); strings.Contains(out, "workload sleep") || !strings.Contains(out, "workload term") {
		t.Errorf("after one container's end:\n%s", out)
	}
	if _, err := p.SignalProcess(ctxFor(t), &agentpb.SignalProcessRequest{ContainerId: "look", Signal: 15}); err != nil {
		t.Fatal(err)
	}
	if code := p.wait("look", ""); code != 7 {
		t.Errorf("SIGTERM: exit code %d", code)
	}
}

func TestSignals(t *testing.T) {
	stubborn := app("stubborn", "stubborn")
	stubborn.Signals = []uint32{9, 10, 15}
	p := start(t, agentns.Layer(t), nil, app("term", "term"), app("kill", "sleep"), stubborn)
	for _, name := range []string{"term", "kill", "stubborn"} {
		if err := p.create(name, name, nil); err != nil {
			t.Fatal(err)
		}
		p.startContainer(name)
		if _, err := p.ReadStdout(ctxFor(t), &agentpb.ReadStreamRequest{ContainerId: name, Len: 64}); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []struct {
		name string
		sig  uint32
	}{{"term", 15}, {"kill", 9}, {"stubborn", 15}, {"stubborn", 10}} {
		if _, err := p.SignalProcess(ctxFor(t), &agentpb.SignalProcessRequest{ContainerId: s.name, Signal: s.sig}); err != nil {
			t.Fatal(err)
		}
	}
	// It ignores SIGTERM, as it may until its grace period ends, and not SIGUSR1.
	if code := p.wait("stubborn", ""); code != 5 {
		t.Errorf("SIGTERM ignored: exit code %d", code)
	}
	if code := p.wait("term", ""); code != 7 {
		t.Errorf("SIGTERM: exit code %d", code)
	}
	if code := p.wait("kill", ""); code != 137 {
		t.Errorf("SIGKILL: exit code %d", code)
	}
	// A process that has ended takes signals silently.
	if _, err := p.SignalProcess(ctxFor(t), &agentpb.SignalProcessRequest{ContainerId: "kill", Signal: 9}); err != nil {
		t.Error(err)
	}
}

func TestConfinement(t *testing.T) {
	unconfined := app("unconfined", "mount")
	unconfined.Seccomp, unconfined.NoNewPrivileges = "unconfined", true
	status := app("status", "status", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
	nnp := app("nnp", "status", "NoNewPrivs", "Seccomp")
	nnp.NoNewPrivileges = true
	node := app("node", "mknod")
	node.Capabilities = []string{"CAP_MKNOD"}
	dev := app("dev", "ls", "/dev")
	p := start(t, agentns.Layer(t), nil, unconfined, status, nnp, node, dev, app("filtered", "mount"))
	out := p.run("status")
	for _, want := range []string{"CapPrm:\t0000000000000021", "CapEff:\t0000000000000021", "CapBnd:\t0000000000000021", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t0", "Seccomp:\t2"} {
		contains(t, out, want)
	}
	out = p.run("nnp")
	contains(t, out, "NoNewPrivs:\t1")
	contains(t, out, "Seccomp:\t2")
	contains(t, p.run("unconfined"), "operation not permitted")
	contains(t, p.run("filtered"), "operation not permitted")
	contains(t, p.run("node"), "mknod: <nil> open: open /tmp/node: operation not permitted")
	want := "/dev/fd /dev/full /dev/mqueue /dev/null /dev/ptmx /dev/pts /dev/random /dev/shm /dev/stderr /dev/stdin /dev/stdout /dev/termination-log /dev/tty /dev/urandom /dev/zero\n"
	if out := p.run("dev"); out != want {
		t.Errorf("/dev has %s", out)
	}
}

func TestUserFromTheImage(t *testing.T) {
	layer := agentns.Layer(t)
	for name, content := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/sh\n",
		"group":  "root:x:0:\nweb:x:34:\nextra:x:77:web,other\nwheel:x:10:root\n",
	} {
		if err := os.WriteFile(filepath.Join(layer, "etc", name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	uid, gid := uint32(1234), uint32(5)
	named, numbers, root, none, home := app("named", "id"), app("numbers", "id"), app("root", "id"), app("none", "id"), app("home", "env")
	named.User.Image = "web"
	numbers.User = podpolicy.User{UID: &uid, GID: &gid, AdditionalGIDs: []uint32{9, 8}}
	none.User.Image = "nobody-there"
	home.User.Image = "web:extra"
	p := start(t, layer, nil, named, numbers, root, none, home)
	for name, want := range map[string]string{"named": "33 34 [34 77]\n", "numbers": "1234 5 [5 8 9]\n", "root": "0 0 [0 10]\n"} {
		if got := p.run(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	contains(t, p.run("home"), "HOME=/var/www")
	if err := p.create("none", "none", nil); err == nil || !strings.Contains(err.Error(), "not in the image's /etc/passwd") {
		t.Errorf("unknown user: %v", err)
	}
}

func TestMountsVolumesAndGeneratedFiles(t *testing.T) {
	content := "key = value\n"
	sum := sha256.Sum256([]byte(content))
	layer := agentns.Layer(t)
	// An image whose directory is a link: mounts stay inside.
	if err := os.Symlink("/../../../etc", filepath.Join(layer, "conf")); err != nil {
		t.Fatal(err)
	}
	mounts := []podpolicy.Mount{
		{Volume: "files", Destination: "/conf/app"}, {Volume: "scratch", Destination: "/scratch"},
		{Volume: "scratch", Destination: "/part", SubPath: "a/b"}, {Volume: "scratch", Destination: "/fixed", ReadOnly: true},
	}
	writer, reader := app("writer", "write", "/scratch/f", "/part/g", "/fixed/h", "/etc/app/app.conf", "/root-file", "/data/v"), app("reader", "read", "/etc/app/app.conf", "/scratch/a/b/g", "/etc/hostname", "/etc/resolv.conf", "/etc/hosts", "/proc/sys/kernel/hostname", "/proc/timer_list")
	writer.Mounts, reader.Mounts = mounts, mounts
	writer.ReadOnly, writer.ImageVolumes = true, []string{"/data"}
	reader.MaskedPaths = []string{"/proc/timer_list", "/proc/absent"}
	reader.ReadOnlyPaths = []string{"/proc/sys"}
	// By the image's link this is a verified file's place: that is not covered.
	writer.Termination, reader.Termination = "/etc/app/app.conf", "/etc/app/app.conf"
	p := start(t, layer, func(p *podpolicy.Policy) {
		p.Volumes = []podpolicy.Volume{
			{Name: "files", Kind: podpolicy.VolumeFiles, Files: map[string]podpolicy.File{
				"app.conf": {SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content)), Mode: 0o644},
			}},
			{Name: "scratch", Kind: podpolicy.VolumeEmptyDir, SizeLimit: 1 << 20},
		}
	}, writer, reader)
	ctx := ctxFor(t)
	if err := p.create("reader", "r0", nil); status.Code(err) != codes.PermissionDenied {
		t.Errorf("without the files: %v", err)
	}
	v := &p.policy.Volumes[0]
	for _, r := range append([]*agentpb.CopyFileRequest{podpolicy.CopyDirRequest(v, "")}, podpolicy.CopyFileRequests(v, "app.conf", []byte(content))...) {
		if _, err := p.CopyFile(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	out := p.run("writer")
	for _, want := range []string{
		"/scratch/f <nil>", "/part/g <nil>", "/fixed/h open /fixed/h: read-only", "/etc/app/app.conf open /etc/app/app.conf: read-only",
		"/root-file open /root-file: read-only", "/data/v <nil>",
	} {
		contains(t, out, want)
	}
	if out := p.run("reader"); !strings.HasPrefix(out, content+"xpod-host\nnameserver 192.0.2.1\n127.0.0.1\tlocalhost\n") || !strings.HasSuffix(out, "\npod-host\n") {
		t.Errorf("reader says %q", out)
	}
}

func TestEnvironmentIsThePolicys(t *testing.T) {
	c := app("env", "env")
	sum := sha256.Sum256([]byte("hunter2"))
	c.Env = append(c.Env, podpolicy.EnvVar{Name: "TOKEN", SHA256: hex.EncodeToString(sum[:])})
	p := start(t, agentns.Layer(t), nil, c)
	if err := p.create("env", "e1", map[string]string{"TOKEN": "other"}); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `"reason":"env-mismatch"`) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("another value: %v", err)
	}
	if err := p.create("env", "e1", map[string]string{"TOKEN": "hunter2"}); err != nil {
		t.Fatal(err)
	}
	p.startContainer("e1")
	out, err := p.Output(ctxFor(t), "e1", "")
	if err != nil || out != "HOME=/\nPATH=/bin\nTOKEN=hunter2\n" {
		t.Errorf("environment %q, %v", out, err)
	}
}

// A VOLUME of the image around a mount of the pod does not hide it, whichever is
// named first.
func TestOuterMountsComeFirst(t *testing.T) {
	content := "the owner's\n"
	sum := sha256.Sum256([]byte(content))
	layer := agentns.Layer(t)
	if err := os.MkdirAll(filepath.Join(layer, "app/conf"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(layer, "app/conf/f"), []byte("the image's\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	inVolume, inMount := app("in-volume", "read", "/app/conf/f"), app("in-mount", "read", "/out/conf/f")
	inVolume.Mounts, inVolume.ImageVolumes = []podpolicy.Mount{{Volume: "files", Destination: "/app/conf"}}, []string{"/app"}
	inMount.Mounts = []podpolicy.Mount{{Volume: "files", Destination: "/out/conf"}, {Volume: "scratch", Destination: "/out"}}
	p := start(t, layer, func(p *podpolicy.Policy) {
		p.Volumes = []podpolicy.Volume{
			{Name: "files", Kind: podpolicy.VolumeFiles, Files: map[string]podpolicy.File{"f": {SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content)), Mode: 0o644}}},
			{Name: "scratch", Kind: podpolicy.VolumeEmptyDir, SizeLimit: 1 << 20},
		}
	}, inVolume, inMount)
	v := &p.policy.Volumes[0]
	for _, r := range append([]*agentpb.CopyFileRequest{podpolicy.CopyDirRequest(v, "")}, podpolicy.CopyFileRequests(v, "f", []byte(content))...) {
		if _, err := p.CopyFile(ctxFor(t), r); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"in-volume", "in-mount"} {
		if out := p.run(name); out != content {
			t.Errorf("%s reads %q, want %q", name, out, content)
		}
	}
}

// The host may give up on a start at any moment; the run counts all the same, or
// it could let a container that must not restart run again and again.
func TestAbandonedStartCounts(t *testing.T) {
	var apps []podpolicy.Container
	waits := map[string]time.Duration{}
	for i := range 6 {
		name := fmt.Sprintf("app%d", i)
		apps = append(apps, app(name, "sleep"))
		waits[name] = time.Millisecond << i / 2
	}
	p := start(t, agentns.Layer(t), nil, apps...)
	for name, wait := range waits {
		if err := p.create(name, name, nil); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		_, _ = p.StartContainer(ctx, &agentpb.StartContainerRequest{ContainerId: name})
		cancel()
		// Either the call never came, or it has counted.
		_, err := p.StartContainer(ctxFor(t), &agentpb.StartContainerRequest{ContainerId: name})
		if code := status.Code(err); code != codes.OK && code != codes.PermissionDenied {
			t.Errorf("a start after one that was given up after %s: %v, want a denial", wait, err)
		}
	}
}

func TestMissingCommand(t *testing.T) {
	c := app("none")
	c.Args = []string{"no-such-program"}
	p := start(t, agentns.Layer(t), nil, c)
	if err := p.create("none", "none", nil); err != nil {
		t.Fatal(err)
	}
	_, err := p.StartContainer(ctxFor(t), &agentpb.StartContainerRequest{ContainerId: "none"})
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("err = %v", err)
	}
	p.remove("none")
}

func TestStats(t *testing.T) {
	p := start(t, agentns.Layer(t), nil, app("main", "sleep"))
	if err := p.create("main", "main", nil); err != nil {
		t.Fatal(err)
	}
	p.startContainer("main")
	s, err := p.StatsContainer(ctxFor(t), &agentpb.StatsContainerRequest{ContainerId: "main"})
	if err != nil || s.GetCgroupStats().GetCpuStats().GetCpuUsage() == nil {
		t.Errorf("stats %v, %v", s, err)
	}
}

func TestUnservedCallsAreDenied(t *testing.T) {
	p := start(t, agentns.Layer(t), nil, app("main", "sleep"))
	ctx := ctxFor(t)
	for name, call := range map[string]func() error{
		"SetPolicy":        func() error { _, err := p.SetPolicy(ctx, &agentpb.SetPolicyRequest{}); return err },
		"SetGuestDateTime": func() error { _, err := p.SetGuestDateTime(ctx, &agentpb.SetGuestDateTimeRequest{Sec: 1}); return err },
		"AddSwap":          func() error { _, err := p.AddSwap(ctx, &agentpb.AddSwapRequest{}); return err },
		"SetIPTables":      func() error { _, err := p.SetIPTables(ctx, &agentpb.SetIPTablesRequest{}); return err },
	} {
		if code := status.Code(call()); code != codes.PermissionDenied {
			t.Errorf("%s: %v", name, code)
		}
	}
}
