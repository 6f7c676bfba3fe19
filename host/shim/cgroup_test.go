package shim

import (
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

func TestCgroupDir(t *testing.T) {
	for name, want := range map[string]string{
		"":                              "",
		"/kubepods/besteffort/pod1/abc": "kubepods/besteffort/pod1/abc",
		"kubepods-besteffort-pod1.slice:cri-containerd:abc": "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-abc.scope",
		"kubepods-pod1_2.slice:cri-containerd:abc":          "kubepods.slice/kubepods-pod1_2.slice/cri-containerd-abc.scope",
	} {
		if got, err := cgroupDir(name); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, want)
		}
	}
	for _, bad := range []string{"/", "abc", "/kubepods/../../etc/x", "a\nb/c", "../x/y"} {
		if got, err := cgroupDir(bad); err == nil {
			t.Errorf("%q: %s", bad, got)
		}
	}
}

func TestJoinCgroup(t *testing.T) {
	t.Run("v1", func(t *testing.T) {
		root := t.TempDir()
		for _, ctl := range []string{"memory", "cpu,cpuacct", "hugetlb"} {
			if err := os.MkdirAll(filepath.Join(root, ctl, "kubepods/pod1"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, ctl, "cgroup.procs"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.RemoveAll(filepath.Join(root, "hugetlb/kubepods")); err != nil { // the kubelet does not manage it
			t.Fatal(err)
		}
		if err := os.Symlink("cpu,cpuacct", filepath.Join(root, "cpu")); err != nil {
			t.Fatal(err)
		}
		c, err := joinCgroup(root, "/kubepods/pod1/abc", []int{1 << 22}) // no process has this number: none's children
		if err != nil || len(c.dirs) != 2 {
			t.Fatalf("%+v, %v", c, err)
		}
		if b, err := os.ReadFile(filepath.Join(root, "memory/kubepods/pod1/abc/cgroup.procs")); err != nil || string(b) != "4194304" {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("v2", func(t *testing.T) {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, "kubepods.slice/kubepods-pod1.slice"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := joinCgroup(root, "kubepods-pod1.slice:cri-containerd:abc", []int{1 << 22})
		if err != nil || len(c.dirs) != 1 {
			t.Fatalf("%+v, %v", c, err)
		}
	})
	t.Run("descendants", func(t *testing.T) {
		cmd := osexec.Command("sh", "-c", "sleep 60 & echo $!; wait")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var child int
		if _, err := fmt.Fscan(out, &child); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = syscall.Kill(child, syscall.SIGKILL)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		dirs := []string{t.TempDir(), t.TempDir()}
		if err := moveAll(dirs, []int{cmd.Process.Pid}); err != nil {
			t.Fatal(err)
		}
		for _, dir := range dirs { // a plain file has what was written last
			if b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err != nil || string(b) != strconv.Itoa(child) {
				t.Errorf("%q, %v; want the child %d", b, err, child)
			}
		}
	})
	t.Run("no kubelet", func(t *testing.T) {
		root := t.TempDir()
		if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if c, err := joinCgroup(root, "/kubepods/pod1/abc", []int{1 << 22}); err != nil || len(c.dirs) != 0 {
			t.Errorf("%+v, %v", c, err)
		}
	})
}
