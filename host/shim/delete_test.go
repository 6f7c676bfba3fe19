package shim

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cofferproject/coffer/host/supervise"
)

// sandboxBundle makes the bundle of a pod, and what containerd says to its shim.
func sandboxBundle(t *testing.T, namespace string) *arguments {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the shim's sockets are below " + socketDir)
	}
	t.Setenv(asShim, "1")
	bundle := t.TempDir()
	spec, err := json.Marshal(&specs.Spec{Version: "1.1.0", Annotations: map[string]string{criType: typeSandbox, criSandbox: "pod1"}, Linux: &specs.Linux{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, specFile), spec, 0o600); err != nil {
		t.Fatal(err)
	}
	a := &arguments{namespace: namespace, id: "pod1", address: filepath.Join(bundle, "containerd.sock"), bundle: bundle}
	t.Cleanup(func() { _ = os.Remove(a.socketOf(a.id)) })
	return a
}

// startShim starts a pod's shim, as containerd has it started.
func startShim(t *testing.T, a *arguments) supervise.Proc {
	t.Helper()
	if err := a.start(bytes.NewReader(nil), io.Discard); err != nil {
		t.Fatal(err)
	}
	p, err := supervise.ReadIdentity(filepath.Join(a.bundle, identityFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill(shimKillTime) })
	if !p.Alive() {
		t.Fatal("the shim does not run")
	}
	return p
}

// runDirOf makes a pod's run directory with the record of its launcher.
func runDirOf(t *testing.T, a *arguments, owner supervise.Proc) string {
	t.Helper()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	record, err := json.Marshal(map[string]any{"boot": strings.TrimSpace(string(boot)), "owner": owner})
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	dir := filepath.Join(root, a.id)
	err = errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, supervise.RecordFile), record, 0o600),
		os.WriteFile(filepath.Join(a.bundle, runDirFile), []byte(root), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func deleted(t *testing.T, a *arguments) {
	t.Helper()
	var b bytes.Buffer
	r := new(api.DeleteResponse)
	if err := a.delete(&b); err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(b.Bytes(), r); err != nil || r.ExitStatus != killed {
		t.Errorf("%v, %v", r, err)
	}
}

// TestDeleteOfLivingShim: containerd has a shim deleted that did not answer in time. What
// it is told has ended has ended, before its pod is launched and after.
func TestDeleteOfLivingShim(t *testing.T) {
	a := sandboxBundle(t, "k8s.io")
	p := startShim(t, a)
	deleted(t, a)
	if p.Alive() {
		t.Error("the shim runs on")
	}
	if _, err := os.Stat(a.socketOf(a.id)); !os.IsNotExist(err) {
		t.Errorf("its socket: %v", err)
	}

	a = sandboxBundle(t, "k8s.io")
	p = startShim(t, a)
	dir := runDirOf(t, a, p)
	if err := os.Remove(filepath.Join(a.bundle, identityFile)); err != nil { // a shim of an earlier version
		t.Fatal(err)
	}
	deleted(t, a)
	if p.Alive() {
		t.Error("the shim of a launched pod runs on")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("its run directory: %v", err)
	}
}

// TestDeleteSparesOthers: delete ends no process but this pod's shim.
func TestDeleteSparesOthers(t *testing.T) {
	other := sandboxBundle(t, "moby")
	shim := startShim(t, other)
	a := sandboxBundle(t, "k8s.io")
	a.address = other.address
	dir := runDirOf(t, a, shim)
	deleted(t, a)
	if c, err := net.Dial("unix", other.socketOf(other.id)); err != nil || !shim.Alive() {
		t.Errorf("the shim of a pod that has the same id in another namespace: %v", err)
	} else {
		_ = c.Close()
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("its run directory: %v", err)
	}

	sleep := osexec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleep.Process.Kill(); _ = sleep.Wait() }()
	now, err := supervise.Identify(sleep.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	// The pid was the shim's before, or in the machine's last life.
	good := filepath.Join(a.bundle, identityFile)
	if err := supervise.WriteIdentity(good, now.PID); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(map[string]any){
		"pid reused":       func(m map[string]any) { m["start"] = m["start"].(float64) - 1 },
		"of another boot":  func(m map[string]any) { m["boot"] = "x" },
		"this process":     func(m map[string]any) { m["pid"] = os.Getpid() },
		"the machine's 1":  func(m map[string]any) { m["pid"] = 1 },
		"all of the group": func(m map[string]any) { m["pid"] = -now.PID },
	} {
		m := map[string]any{}
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(good, text, 0o600); err != nil {
			t.Fatal(err)
		}
		deleted(t, a)
		if !now.Alive() {
			t.Fatalf("%s: another process was killed", what)
		}
	}
}

// TestStartFails: of a start that fails no process stays, which nobody would end.
func TestStartFails(t *testing.T) {
	for _, file := range []string{addressFile, "shim.pid"} {
		a := sandboxBundle(t, "k8s.io")
		if err := os.Mkdir(filepath.Join(a.bundle, file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := a.start(bytes.NewReader(nil), io.Discard); err == nil {
			t.Errorf("%s cannot be written, and start succeeds", file)
		}
		p, err := supervise.ReadIdentity(filepath.Join(a.bundle, identityFile))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Kill(shimKillTime) })
		if p.Alive() {
			t.Errorf("%s cannot be written, and the shim runs on", file)
		}
		if _, err := os.Stat(a.socketOf(a.id)); !os.IsNotExist(err) {
			t.Errorf("its socket: %v", err)
		}
	}
}
