package e2e

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// inVM is a fault that shows when the VM is up.
type inVM struct {
	name string
	ci   bool // within CI's time
	// setUp gives further flags and the pod's file.
	setUp func(t *testing.T, e *env, home string) []string
	// meanwhile plays the fault while the pod runs.
	meanwhile func(t *testing.T, p *pod, tr *tracker)
	code      int
	says      []string
	limit     time.Duration // from the start or, with meanwhile, from the fault
}

// layerFault is a registry that is sound until the guest asks for layers: what
// coffer itself asks for, manifest and configuration, is answered.
func layerFault(fault func(e *env, w http.ResponseWriter, r *http.Request) bool) func(*testing.T, *env, string) []string {
	return func(t *testing.T, e *env, home string) []string {
		var blobs atomic.Int32
		conf := e.faultyRegistry(t, func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r) {
				return false
			}
			_, _, b := e.original(r)
			if len(b) > 0 && b[0] == '{' { // a configuration
				return false
			}
			blobs.Add(1)
			return fault(e, w, r)
		})
		t.Cleanup(func() {
			if blobs.Load() == 0 {
				t.Error("nobody asked the faulty registry for a layer")
			}
		})
		return []string{"--registries", conf, write(t, home, "pod.yaml", okPod)}
	}
}

// secretPod needs the key of its image, IMAGE.
const secretPod = `apiVersion: v1
kind: Pod
metadata: {name: locked}
spec:
  restartPolicy: Never
  containers:
  - {name: app, image: IMAGE, env: [{name: RESOURCE, value: none}]}
`

var faultsInVM = []inVM{
	{name: "registry serves another layer", ci: true, setUp: layerFault((*env).changed), code: 121, says: []string{"busybox", "layer", "sha256:"}},
	{name: "registry cuts a layer", setUp: layerFault((*env).cut), code: 121, says: []string{"busybox", "layer", "connection broke"}},
	{name: "registry hangs in a layer", setUp: layerFault(func(_ *env, w http.ResponseWriter, r *http.Request) bool { return hang(w, r) }),
		code: 121, says: []string{"busybox", "layer"}, limit: 150 * time.Second},
	{name: "registry trickles a layer", setUp: layerFault(func(e *env, w http.ResponseWriter, r *http.Request) bool {
		_, h, b := e.original(r)
		w.Header().Set("Content-Length", h.Get("Content-Length"))
		for i := range b {
			if _, err := w.Write(b[i : i+1]); err != nil || r.Context().Err() != nil {
				return true
			}
			_ = http.NewResponseController(w).Flush()
			time.Sleep(200 * time.Millisecond)
		}
		return true
	}), code: 121, says: []string{"busybox", "layer"}, limit: 180 * time.Second},

	{name: "the image's key is missing", ci: true, setUp: func(t *testing.T, e *env, home string) []string {
		e.startTrustee(t, home, "")
		image, _ := e.encrypted(t, home, "locked")
		file, _ := e.seal(t, home, strings.ReplaceAll(secretPod, "IMAGE", image))
		return []string{file}
	}, code: 123, says: []string{"denied: secret-unbound", "measured", "record"}},
	{name: "the image's key is for another pod", setUp: func(t *testing.T, e *env, home string) []string {
		e.startTrustee(t, home, "")
		image, key := e.encrypted(t, home, "locked")
		text := strings.ReplaceAll(secretPod, "IMAGE", image)
		_, other := e.seal(t, home, strings.Replace(text, "value: none", "value: other", 1))
		e.must(t, home, "secret", "put", keyName, "--for", other, "--from-file", key)
		file, _ := e.seal(t, home, text)
		return []string{file}
	}, code: 123, says: []string{"denied: secret-unbound", "initdata", "measured", "record"}},
	{name: "the sealed pod's trustee is gone", setUp: func(t *testing.T, e *env, home string) []string {
		gone := e.newHome(t)
		old := e.startTrustee(t, gone, "")
		image, _ := e.encrypted(t, home, "locked")
		file, _ := e.seal(t, gone, strings.ReplaceAll(secretPod, "IMAGE", image))
		old.kill()
		return append(e.startTrustee(t, home, "").flags(), file)
	}, code: 121, says: []string{"layer", "trustee not available", "connection refused"}, limit: 120 * time.Second},
	{name: "the trustee has another CA than initdata names", setUp: func(t *testing.T, e *env, home string) []string {
		gone := e.newHome(t)
		old := e.startTrustee(t, gone, "")
		image, _ := e.encrypted(t, home, "locked")
		file, _ := e.seal(t, gone, strings.ReplaceAll(secretPod, "IMAGE", image))
		old.kill()
		return append(e.startTrustee(t, home, old.host()).flags(), file)
	}, code: 123, says: []string{"denied", "kbs-certificate-untrusted"}},

	{name: "guest out of memory", setUp: func(t *testing.T, _ *env, home string) []string {
		return []string{"--memory", "256", "--image", "docker.io/library/busybox=oci:" + bigImage(t, home, 400<<20), write(t, home, "pod.yaml", okPod)}
	}, code: 121, says: []string{"busybox", "memory"}},

	{name: "QEMU is killed", setUp: staying, meanwhile: func(t *testing.T, _ *pod, tr *tracker) { killAll(t, tr, "qemu") }, code: 122, says: []string{"the TEE ended: killed: somebody killed QEMU"}, limit: 10 * time.Second},
	{name: "swtpm is killed", setUp: staying, meanwhile: func(t *testing.T, _ *pod, tr *tracker) { killAll(t, tr, "swtpm") }, code: 122, says: []string{"the TEE ended: crashed", "swtpm"}, limit: 15 * time.Second},
	{name: "coffer-node is killed", setUp: staying, meanwhile: func(t *testing.T, _ *pod, tr *tracker) { killAll(t, tr, "coffer-node sandbox") }, code: 122, says: []string{"the TEE ended: launcher-gone", "coffer-node"}, limit: 10 * time.Second},
}

// staying runs a pod until something happens to it.
func staying(t *testing.T, _ *env, home string) []string {
	return []string{write(t, home, "pod.yaml", shellPod)}
}

func killAll(t *testing.T, tr *tracker, name string) {
	t.Helper()
	pids := tr.pids(name)
	if len(pids) != 1 {
		t.Fatalf("%d processes %s, want one: %v", len(pids), name, tr.left())
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// TestFaultsInAVM boots a VM for each.
func TestFaultsInAVM(t *testing.T) {
	for _, f := range faultsInVM {
		t.Run(f.name, func(t *testing.T) {
			if !f.ci {
				full(t)
			}
			t.Parallel()
			home := shared.newHome(t)
			began := time.Now()
			p := shared.run(t, home, f.setUp(t, shared, home)...)
			tr := track(t, p.cmd.Process.Pid)
			if f.meanwhile != nil {
				p.waitOutput("up\n")
				began = time.Now()
				f.meanwhile(t, p, tr)
			}
			limit := f.limit
			if limit == 0 {
				limit = patience
			}
			select {
			case <-p.done:
			case <-time.After(limit):
				t.Fatalf("no end after %s, limit %s", time.Since(began).Round(time.Second), limit)
			}
			if p.code != f.code {
				t.Errorf("exit code %d, want %d", p.code, f.code)
			}
			explained(t, p.stderr(), f.says...)
			nothingLeft(t, tr, home)
			t.Logf("ended after %s with:\n%s", time.Since(began).Round(100*time.Millisecond), p.stderr())
		})
	}
}

// explained checks the error at the end of what coffer said: one line, or one
// with the lines of a denial or the end of the console below it.
func explained(t *testing.T, stderr string, want ...string) {
	t.Helper()
	i := strings.LastIndex("\n"+stderr, "\ncoffer: ")
	if i < 0 {
		t.Fatalf("no error of coffer's: %q", stderr)
	}
	contains(t, "the error", stderr[i:], want...)
	if strings.Contains(stderr[i:], "rpc error") {
		t.Errorf("the error speaks of the wire: %q", stderr[i:])
	}
}

// bigImage makes a layout whose one layer unpacks to size bytes, which compress
// to hardly any.
func bigImage(t *testing.T, home string, size int64) string {
	t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		var head bytes.Buffer
		w := tar.NewWriter(&head)
		if err := w.WriteHeader(&tar.Header{Name: "big", Mode: 0o644, Size: size, Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		return io.NopCloser(io.MultiReader(&head, io.LimitReader(zeros{}, (size+511)/512*512+1024))), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err == nil {
		img, err = mutate.Config(img, v1.Config{Cmd: []string{"/big"}})
	}
	var cf *v1.ConfigFile
	if err == nil {
		cf, err = img.ConfigFile()
	}
	if err == nil {
		cf = cf.DeepCopy()
		cf.OS, cf.Architecture = "linux", "amd64"
		img, err = mutate.ConfigFile(img, cf)
	}
	dir := filepath.Join(home, "big")
	if err == nil {
		var l layout.Path
		if l, err = layout.Write(dir, empty.Index); err == nil {
			err = l.AppendImage(img)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestKillEverything kills coffer run and all that could clean up after it; the
// next command does.
func TestKillEverything(t *testing.T) {
	full(t)
	t.Parallel()
	home := shared.newHome(t)
	p := shared.run(t, home, write(t, home, "pod.yaml", shellPod))
	tr := track(t, p.cmd.Process.Pid)
	p.waitOutput("up\n")
	pids := append([]int{p.cmd.Process.Pid}, tr.pids("coffer-node")...)
	if len(pids) != 3 { // coffer run, sandbox, supervise
		t.Fatalf("processes: %v", tr.left())
	}
	for _, pid := range pids { // stopped first, so that none of them sees another die
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.done
	dirs, err := os.ReadDir(filepath.Join(home, "run"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("there is nothing to sweep: %v, %v", dirs, err)
	}
	time.Sleep(cleanWithin) // the processes have gone with their parent by then
	if list := shared.ps(t, home); len(list) != 0 {
		t.Errorf("coffer ps: %+v", list)
	}
	nothingLeft(t, tr, home)
}

// TestSignalsWhileBooting ends a run whose guest has not answered yet.
func TestSignalsWhileBooting(t *testing.T) {
	t.Parallel()
	home := shared.newHome(t)
	p := shared.run(t, home, write(t, home, "pod.yaml", shellPod))
	tr := track(t, p.cmd.Process.Pid)
	p.waitFor("QEMU", func() bool { return len(tr.pids("qemu")) == 1 })
	time.Sleep(300 * time.Millisecond)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	began := time.Now()
	if code := p.wait(); code != 128+15 {
		t.Errorf("exit code %d, want 143", code)
	}
	if took := time.Since(began); took > cleanWithin {
		t.Errorf("took %s", took)
	}
	explained(t, p.stderr(), "SIGTERM", "before the pod ran")
	nothingLeft(t, tr, home)
}

// TestRestartsAndStubbornness: a container that fails is restarted as often as
// allowed; one that ignores SIGTERM ends at the second.
func TestRestartsAndStubbornness(t *testing.T) {
	full(t)
	t.Parallel()
	home := shared.newHome(t)
	p := shared.run(t, home, "--max-restarts", "2", write(t, home, "pod.yaml", `apiVersion: v1
kind: Pod
metadata: {name: mixed}
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 60
  containers:
  - {name: flaky, image: busybox, command: [sh, -c, "echo try; exit 9"]}
  - {name: done, image: busybox, command: [sh, -c, "echo fine"]}
  - {name: stubborn, image: busybox, command: [sh, -c, "trap '' TERM; echo up; while :; do sleep 1; done"]}
`))
	tr := track(t, p.cmd.Process.Pid)
	p.waitOutput("stubborn | up\n")
	p.waitFor("the last restart", func() bool { return strings.Count(p.stdout(), "flaky | try\n") == 3 })
	contains(t, "standard error", p.stderr(), "container flaky: Error, exit code 9; restarting in 10s", "restarting in 20s")
	p.waitFor("the end of the restarts", func() bool {
		list := shared.ps(t, home)
		return len(list) == 1 && list[0].Containers[0].State == "exited" && list[0].Containers[0].Restarts == 2
	})
	if n := strings.Count(p.stdout(), "done | fine\n"); n != 1 {
		t.Errorf("a container that succeeded ran %d times", n)
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	p.waitFor("word of the grace period", func() bool { return strings.Contains(p.stderr(), "grace period 1m0s") })
	time.Sleep(2 * time.Second)
	select {
	case <-p.done:
		t.Fatal("it ended on the first SIGTERM")
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	began := time.Now()
	if code := p.wait(); code != 9 {
		t.Errorf("exit code %d, want 9: the first failure", code)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the second SIGTERM took %s", took)
	}
	nothingLeft(t, tr, home)
}

// TestTwoRunsShareATrustee: the one that started it ends first.
func TestTwoRunsShareATrustee(t *testing.T) {
	full(t)
	t.Parallel()
	home := shared.newHome(t)
	first := shared.run(t, home, write(t, home, "pod.yaml", shellPod))
	tr1 := track(t, first.cmd.Process.Pid)
	first.waitFor("the trustee", func() bool { return len(tr1.pids("coffer-trustee")) == 1 })
	second := shared.run(t, home, write(t, home, "second.yaml", strings.Replace(secretPod, "image: IMAGE", "image: registry.example/coffer/demo:plain, command: [/demo]", 1)))
	tr2 := track(t, second.cmd.Process.Pid)
	first.waitOutput("up\n")
	if code := first.stop(); code != 137 {
		t.Errorf("exit code %d, want 137", code)
	}
	if len(tr1.pids("coffer-trustee")) != 1 {
		t.Error("the trustee ended with the run that had started it")
	}
	if code := second.wait(); code != 0 {
		t.Errorf("exit code %d of the second run", code)
	}
	nothingLeft(t, tr1, home)
	nothingLeft(t, tr2, home)
}
