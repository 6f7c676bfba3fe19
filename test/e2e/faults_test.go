package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// okPod prints one line and ends with 7.
const okPod = `apiVersion: v1
kind: Pod
metadata: {name: ok}
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: busybox
    command: [sh, -c, "echo hello; exit 7"]
`

// fault is something wrong that shows before a VM is started.
type fault struct {
	name  string
	pod   string                                           // instead of okPod
	args  []string                                         // further flags
	setUp func(t *testing.T, e *env, home string) []string // further flags, or NAME=VALUE for the environment
	code  int
	says  []string      // in the error: what is wrong, and where
	limit time.Duration // 15 s if zero
}

// replaced gives okPod with one piece of its text changed.
func replaced(old, with string) string {
	if !strings.Contains(okPod, old) {
		panic(old)
	}
	return strings.Replace(okPod, old, with, 1)
}

const zeroDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

var faults = []fault{
	// The manifest.
	{name: "broken YAML", pod: okPod + "   : x: [\n", code: 120, says: []string{"pod.yaml", "line 9"}},
	{name: "unknown field", pod: replaced("restartPolicy: Never", "restartPolice: Never"), code: 120, says: []string{"pod.yaml", "spec.restartPolice: unknown field"}},
	{name: "a value of the wrong type", pod: replaced("command: [sh,", "command: [1,"), code: 120, says: []string{"pod.yaml", "spec.containers[0].command"}},
	{name: "hostPath", pod: okPod + "  volumes: [{name: v, hostPath: {path: /etc}}]\n", code: 120, says: []string{"pod.yaml", "spec.volumes[0].hostPath: leaves the TEE"}},
	{name: "two pods", pod: okPod + "---\n" + okPod, code: 120, says: []string{"pod.yaml", "2 Pods"}},
	{name: "missing ConfigMap", pod: okPod + "  volumes: [{name: v, configMap: {name: nope}}]\n", code: 120, says: []string{"spec.volumes[0].configMap.name", "nope"}},
	{name: "no manifest", setUp: func(_ *testing.T, _ *env, home string) []string {
		_ = os.Remove(filepath.Join(home, "pod.yaml"))
		return nil
	}, code: 120, says: []string{"pod.yaml", "no such file"}},

	// Flags and configuration.
	{name: "no TEE chosen", args: []string{"--tee", ""}, code: 2, says: []string{"--tee tpm-sim"}},
	{name: "port that is none", args: []string{"--publish", "80"}, code: 2, says: []string{`--publish "80"`}},
	{name: "registries.conf missing", args: []string{"--registries", "/nonexistent/r.conf"}, code: 120, says: []string{"--registries", "/nonexistent/r.conf"}},
	{name: "owner's key broken", setUp: func(t *testing.T, _ *env, home string) []string {
		if err := os.MkdirAll(filepath.Join(home, "state"), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, home, "state/owner.key", "no key")
		return nil
	}, code: 120, says: []string{"owner.key"}},

	// Images.
	{name: "image not found", pod: replaced("busybox", "busybox:nope"), code: 121, says: []string{"busybox:nope", "404", "MANIFEST_UNKNOWN"}},
	{name: "wrong digest in the reference", pod: replaced("busybox", `"busybox@`+zeroDigest+`"`), code: 121, says: []string{"busybox@" + zeroDigest, "404"}},
	{name: "registry serves another manifest", pod: okPod, setUp: func(t *testing.T, e *env, home string) []string {
		write(t, home, "pod.yaml", replaced("busybox", `"busybox@`+e.busyboxDigest(t)+`"`))
		return []string{"--registries", e.faultyRegistry(t, func(w http.ResponseWriter, r *http.Request) bool { return isManifest(r) && e.changed(w, r) })}
	}, code: 121, says: []string{"busybox@sha256:", "has digest sha256:"}},
	{name: "registry serves another configuration", setUp: func(t *testing.T, e *env, _ string) []string {
		return []string{"--registries", e.faultyRegistry(t, func(w http.ResponseWriter, r *http.Request) bool { return isBlob(r) && e.changed(w, r) })}
	}, code: 121, says: []string{"busybox", "config", "sha256:"}},
	{name: "registry cuts the manifest", setUp: func(t *testing.T, e *env, _ string) []string {
		return []string{"--registries", e.faultyRegistry(t, func(w http.ResponseWriter, r *http.Request) bool { return isManifest(r) && e.cut(w, r) })}
	}, code: 121, says: []string{"busybox", "manifest", "EOF"}},
	{name: "registry hangs", setUp: func(t *testing.T, e *env, _ string) []string {
		return []string{"--registries", e.faultyRegistry(t, hang)}
	}, code: 121, says: []string{"busybox", "does it hang?"}, limit: 75 * time.Second},
	{name: "registry gone", setUp: func(t *testing.T, e *env, home string) []string {
		b, err := os.ReadFile(e.registries)
		if err != nil {
			t.Fatal(err)
		}
		return []string{"--registries", write(t, home, "r.conf", strings.ReplaceAll(string(b), e.mirror, "127.0.0.1:1"))}
	}, code: 121, says: []string{"busybox", "127.0.0.1:1", "connection refused"}},
	{name: "registry speaks HTTP", setUp: func(t *testing.T, e *env, home string) []string {
		b, err := os.ReadFile(e.registries)
		if err != nil {
			t.Fatal(err)
		}
		return []string{"--registries", write(t, home, "r.conf", strings.ReplaceAll(string(b), "insecure = true", ""))}
	}, code: 121, says: []string{"busybox", "insecure = true"}},
	{name: "image on disk missing", args: []string{"--image", "docker.io/library/busybox=oci:/nonexistent"}, code: 121, says: []string{"busybox", "/nonexistent"}},

	// The trustee.
	{name: "trustee without listener", setUp: func(t *testing.T, e *env, home string) []string {
		p := e.startTrustee(t, home, "")
		p.kill()
		return p.flags()
	}, code: 125, says: []string{"trustee", "connection refused"}},
	{name: "trustee with another CA", setUp: func(t *testing.T, e *env, home string) []string {
		other := e.startTrustee(t, e.newHome(t), "")
		flags := e.startTrustee(t, home, "").flags()
		return append(flags, "--trustee", other.config.URL)
	}, code: 125, says: []string{"trustee", "certificate signed by unknown authority"}},
	{name: "trustee that knows another admin", setUp: func(t *testing.T, e *env, home string) []string {
		other := e.startTrustee(t, e.newHome(t), "")
		flags := e.startTrustee(t, home, "").flags()
		return append(flags, "--admin-key", other.config.AdminKeyPath)
	}, code: 123, says: []string{"trustee", "not authenticated"}},
	{name: "trustee that hangs", setUp: func(t *testing.T, e *env, home string) []string {
		return append(e.startTrustee(t, home, "").flags(), "--trustee", "https://"+deaf(t))
	}, code: 124, says: []string{"trustee"}, limit: 40 * time.Second},
	{name: "trustee's CA missing", args: []string{"--trustee", "https://127.0.0.1:1", "--trustee-ca", "/nonexistent/ca.pem", "--admin-key", "x"}, code: 120, says: []string{"--trustee-ca", "/nonexistent/ca.pem"}},
	{name: "trustee's store broken", setUp: func(t *testing.T, _ *env, home string) []string {
		if err := os.MkdirAll(filepath.Join(home, "state", "trustee"), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, home, "state/trustee/trustee.db", strings.Repeat("not a store ", 1000))
		return nil
	}, code: 125, says: []string{"starting coffer-trustee", "trustee.log"}, limit: 30 * time.Second},

	// The platform.
	{name: "no platform", args: []string{"--platform", "/nonexistent/platform.json"}, code: 120, says: []string{"/nonexistent/platform.json", "coffer guest build"}},
	{name: "broken platform.json", setUp: platform(func(p map[string]any) { p["version"] = 99 }), code: 120, says: []string{"platform.json", "version"}},
	{name: "QEMU missing", setUp: platform(func(p map[string]any) { p["qemu"].(map[string]any)["path"] = "/nonexistent/qemu" }), code: 122, says: []string{"QEMU is missing", "/nonexistent/qemu", "coffer guest build"}},
	{name: "swtpm missing", setUp: platform(func(p map[string]any) { p["swtpm"] = "/nonexistent/swtpm" }), code: 122, says: []string{"swtpm is missing", "/nonexistent/swtpm"}},
	{name: "QEMU that is no program", setUp: platform(func(p map[string]any) { p["qemu"].(map[string]any)["path"] = "/etc/passwd" }), code: 122, says: []string{"/etc/passwd"}},
	{name: "initrd of another digest", setUp: platform(func(p map[string]any) {
		p["images"].(map[string]any)["sim"].(map[string]any)["initrd_sha256"] = strings.Repeat("0", 64)
	}), code: 122, says: []string{"initrd", "SHA-256", strings.Repeat("0", 64)}},
	{name: "measurements missing", setUp: platform(func(p map[string]any) { p["measurements"] = "/nonexistent/measurements.json" }), code: 120, says: []string{"measurements", "/nonexistent/measurements.json"}},

	// This machine.
	{name: "port in use", setUp: func(_ *testing.T, e *env, _ string) []string { return []string{"--publish", portOf(e.mirror) + ":80"} },
		code: 122, says: []string{"port 127.0.0.1:", "in use"}},
	{name: "run directory's disk full", setUp: func(t *testing.T, _ *env, home string) []string {
		return []string{"COFFER_RUN_DIR=" + fullDisk(t, home)}
	}, code: 125, says: []string{"no space left on device", "/small/run/"}},
	{name: "run directory too long", setUp: func(_ *testing.T, _ *env, home string) []string {
		return []string{"COFFER_RUN_DIR=" + filepath.Join(home, strings.Repeat("long/", 16), "run")}
	}, code: 120, says: []string{"COFFER_RUN_DIR", "long/"}},
	{name: "state directory too long", setUp: func(_ *testing.T, _ *env, home string) []string {
		return []string{"COFFER_STATE=" + filepath.Join(home, strings.Repeat("long/", 16), "state")}
	}, code: 120, says: []string{"COFFER_STATE", "long/"}},
	{name: "more memory than there is a rung for", args: []string{"--memory", "99999999"}, code: 120, says: []string{"99999999 MiB"}},
}

// TestFaultsBeforeAVM plays the faults side by side, so that those that wait for
// a time limit do not keep the others.
func TestFaultsBeforeAVM(t *testing.T) {
	t.Parallel()
	const busy = 3 // commands at once, beside those that only wait
	slots := make(chan struct{}, busy)
	results := make([]chan *outcome, len(faults))
	for i, f := range faults {
		c := f.prepare(t)
		results[i] = make(chan *outcome, 1)
		go func() {
			if f.limit == 0 {
				slots <- struct{}{}
				defer func() { <-slots }()
			}
			results[i] <- c.run()
		}()
	}
	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) { f.judge(t, <-results[i]) })
	}
}

// attempt is a command that is to fail.
type attempt struct {
	t     *testing.T
	cmd   *exec.Cmd
	home  string
	limit time.Duration
}

// outcome is how it ended.
type outcome struct {
	stdout, stderr string
	code           int
	took           time.Duration
	left           []string
	err            error
}

func (f *fault) bound() time.Duration {
	if f.limit == 0 {
		return 15 * time.Second
	}
	return f.limit
}

func (f *fault) prepare(t *testing.T) *attempt {
	home := shared.newHome(t)
	pod := f.pod
	if pod == "" {
		pod = okPod
	}
	path := write(t, home, "pod.yaml", pod)
	args := append([]string{"run", path, "--tee", "tpm-sim", "--registries", shared.registries}, f.args...)
	var environ []string
	if f.setUp != nil {
		for _, a := range f.setUp(t, shared, home) {
			if name, _, ok := strings.Cut(a, "="); ok && name == strings.ToUpper(name) {
				environ = append(environ, a)
			} else {
				args = append(args, a)
			}
		}
	}
	cmd := shared.command(home, args...)
	cmd.Env = append(cmd.Env, environ...)
	return &attempt{t, cmd, home, f.bound()}
}

func (a *attempt) run() *outcome {
	var out, errout bytes.Buffer
	a.cmd.Stdout, a.cmd.Stderr = &out, &errout
	began := time.Now()
	if err := a.cmd.Start(); err != nil {
		return &outcome{err: err}
	}
	tr := track(a.t, a.cmd.Process.Pid)
	stop := time.AfterFunc(2*a.limit, func() { _ = a.cmd.Process.Kill() })
	err := a.cmd.Wait()
	stop.Stop()
	o := &outcome{stdout: out.String(), stderr: errout.String(), code: a.cmd.ProcessState.ExitCode(), took: time.Since(began)}
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		o.err = err
	}
	o.left = leftAfter(tr, a.home, cleanWithin)
	return o
}

// judge checks an outcome.
func (f *fault) judge(t *testing.T, o *outcome) {
	if o.err != nil {
		t.Fatal(o.err)
	}
	if o.took > f.bound() {
		t.Errorf("took %s, limit %s", o.took.Round(time.Millisecond), f.bound())
	}
	if o.code != f.code {
		t.Errorf("exit code %d, want %d", o.code, f.code)
	}
	if o.stdout != "" {
		t.Errorf("standard output: %q", o.stdout)
	}
	oneError(t, o.stderr, f.says...)
	if len(o.left) > 0 {
		t.Errorf("left behind after %s: %v", cleanWithin, o.left)
	}
	if t.Failed() {
		t.Logf("standard error:\n%s", o.stderr)
	}
}

// oneError checks that the last line is the error, and that it says all of want.
func oneError(t *testing.T, stderr string, want ...string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, "coffer: ") {
		t.Errorf("the last line is no error of coffer's: %q", last)
	}
	for _, w := range want {
		if !strings.Contains(last, w) {
			t.Errorf("the error does not say %q", w)
		}
	}
}

// platform makes a platform.json with a change in it; paths in it become absolute.
func platform(change func(map[string]any)) func(*testing.T, *env, string) []string {
	return func(t *testing.T, _ *env, home string) []string {
		t.Helper()
		orig := os.Getenv("COFFER_PLATFORM")
		b, err := os.ReadFile(orig)
		if err != nil {
			t.Fatal(err)
		}
		var p map[string]any
		if err := json.Unmarshal(b, &p); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Dir(orig)
		absolute := func(m map[string]any, keys ...string) {
			for _, k := range keys {
				if s, ok := m[k].(string); ok && s != "" && !filepath.IsAbs(s) {
					m[k] = filepath.Join(dir, s)
				}
			}
		}
		absolute(p, "measurements", "swtpm", "swtpm_setup")
		for _, img := range p["images"].(map[string]any) {
			absolute(img.(map[string]any), "kernel", "vmlinux", "initrd")
		}
		change(p)
		if b, err = json.Marshal(p); err != nil {
			t.Fatal(err)
		}
		return []string{"--platform", write(t, home, "platform.json", string(b))}
	}
}

// deaf accepts connections and never says a word.
func deaf(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
		}
	}()
	return l.Addr().String()
}

func portOf(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

// fullDisk gives a folder on a file system that has no room for a byte.
func fullDisk(t *testing.T, home string) string {
	t.Helper()
	small := filepath.Join(home, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("coffer-e2e", small, "tmpfs", 0, "size=16k"); err != nil {
		t.Fatalf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(small, "fill"), make([]byte, 16<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(small, "run")
}

// busyboxDigest gives the digest under which the mirror has busybox.
func (e *env) busyboxDigest(t *testing.T) string {
	t.Helper()
	resp, err := http.Head(fmt.Sprintf("http://%s/v2/docker.io/library/busybox/manifests/latest", e.mirror))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	d := resp.Header.Get("Docker-Content-Digest")
	if !strings.HasPrefix(d, "sha256:") {
		t.Fatalf("the mirror gives no digest: %s", resp.Status)
	}
	return d
}
