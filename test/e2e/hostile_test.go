package e2e

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/libos"
	"github.com/cofferproject/coffer/api/nodeapi"
	apiplatform "github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/image/reference"
	"github.com/cofferproject/coffer/image/registry"
	ownerpod "github.com/cofferproject/coffer/owner/pod"
	"github.com/cofferproject/coffer/owner/seal"
	"github.com/cofferproject/coffer/owner/spec"
	"github.com/cofferproject/coffer/owner/trusteeclient"
	"github.com/cofferproject/coffer/test/child"
	"github.com/cofferproject/coffer/test/hostile"
)

// victimPod has everything that the attacks want: files, an init container, an
// encrypted image, a secret. IMAGE stands for the encrypted image.
const victimPod = `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a.conf: "level=very", b.conf: "x"}
---
apiVersion: v1
kind: Pod
metadata: {name: victim}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 20
  initContainers:
  - name: prepare
    image: IMAGE
    env: [{name: RESOURCE, value: none}]
    volumeMounts: [{name: v, mountPath: /c}]
  containers:
  - name: app
    image: IMAGE
    env: [{name: RESOURCE, value: default/test/secret}, {name: STAY, value: "1"}]
    volumeMounts: [{name: v, mountPath: /c}, {name: e, mountPath: /e}]
  - name: side
    image: IMAGE
    env: [{name: RESOURCE, value: none}, {name: STAY, value: "1"}]
  volumes: [{name: v, configMap: {name: settings}}, {name: e, emptyDir: {}}]
`

// sealedVictim makes the sealed pod with its key and secret in the trustee.
func sealedVictim(t *testing.T, home string, args ...string) (file string) {
	t.Helper()
	return sealedVictimOf(t, home, victimPod, args...)
}

func sealedVictimOf(t *testing.T, home, manifest string, args ...string) (file string) {
	t.Helper()
	image, key := shared.encrypted(t, home, "victim")
	file, id := shared.seal(t, home, strings.ReplaceAll(manifest, "IMAGE", image), args...)
	shared.must(t, home, "secret", "put", keyName, "--for", id, "--from-file", key)
	shared.must(t, home, "secret", "put", "default/test/secret", "--for", id, "--from-file", write(t, home, "secret", "for the victim alone"))
	return file
}

// openSealed gives a sealed pod's initdata and the plan of its requests.
func openSealed(t *testing.T, file string) (document []byte, plan *spec.Plan) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ownerpod.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	o, ok, err := seal.Open(p)
	if err != nil || !ok {
		t.Fatalf("opening the sealed pod: %v, %v", ok, err)
	}
	refs, err := o.Images(p)
	if err != nil {
		t.Fatal(err)
	}
	var cfg registry.Config
	if _, err := toml.DecodeFile(shared.registries, &cfg.Conf); err != nil {
		t.Fatal(err)
	}
	c, err := registry.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]*spec.ResolvedImage{}
	for name, by := range refs {
		ref, err := reference.Parse(by)
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Resolve(t.Context(), ref, manifest.Platform{OS: "linux", Architecture: runtime.GOARCH})
		if err != nil {
			t.Fatal(err)
		}
		images[name] = &spec.ResolvedImage{Reference: by, ManifestDigest: string(r.ManifestDigest), IndexDigest: string(r.IndexDigest), Config: r.Config}
		for _, l := range r.Manifest.Layers {
			images[name].LayerBytes += l.Size
		}
	}
	built, plan, err := spec.Build(p, images, o.Options())
	if err == nil {
		err = o.Check(built)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o.Document, plan
}

// sandboxProc is coffer-node sandbox, started by the test as a hostile host would.
type sandboxProc struct {
	dir   string
	ready nodeapi.Event
}

// startSandbox boots a guest with the document as its initdata.
func (e *env) startSandbox(t *testing.T, home, id string, document []byte, plan *spec.Plan, tee launch.TEE) *sandboxProc {
	t.Helper()
	file := os.Getenv("COFFER_PLATFORM")
	var ls *launch.Spec
	if tee.Process() {
		file = ""
		ls = libos.NewSpec(tee, filepath.Join(e.bin, libos.RuntimeProgram), filepath.Join(e.bin, libos.AgentProgram), plan.MemoryMiB, plan.VCPUs)
	} else {
		p, err := apiplatform.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		if ls, err = p.Spec(tee, apiplatform.Sim, plan.MemoryMiB, 1); err != nil {
			t.Fatal(err)
		}
	}
	ls.Initdata = document
	s := &sandboxProc{dir: filepath.Join(home, "run", id)}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(e.bin, "coffer-node"), "sandbox")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(cmd, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		stop := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		stop.Stop()
		_ = os.RemoveAll(s.dir)
	})
	if err := json.NewEncoder(in).Encode(nodeapi.Request{ID: id, RunDir: s.dir, Platform: file, Launch: *ls}); err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(out)
	sc.Buffer(nil, 1<<20)
	for s.ready.Type != nodeapi.Ready {
		if !sc.Scan() {
			t.Fatal("coffer-node ended without a sandbox")
		}
		var ev nodeapi.Event
		if err := json.Unmarshal(sc.Bytes(), &ev); err != nil {
			t.Fatal(err)
		}
		if ev.Type == nodeapi.Failed {
			t.Fatalf("coffer-node: %s", ev.Error)
		}
		s.ready = ev
	}
	go func() {
		for sc.Scan() {
			var ev nodeapi.Event
			if json.Unmarshal(sc.Bytes(), &ev) == nil && ev.Reason != nodeapi.ReasonDestroyed {
				t.Logf("coffer-node: %s %s %s\n%s", ev.Type, ev.Reason, ev.Error, ev.Console)
			}
		}
	}()
	return s
}

// trust lets the trustee accept the simulated hardware of a sandbox, as coffer run does.
func (p *trusteeProc) trust(s *sandboxProc, tee launch.TEE) {
	p.t.Helper()
	root := s.ready.EKRoot
	if s.ready.Simulation != nil {
		root = s.ready.Simulation.Root
	}
	cert, err := x509.ParseCertificate(root)
	if err != nil {
		p.t.Fatal(err)
	}
	if s.ready.Simulation == nil {
		_, err = p.sim.AddEKRoot(p.t.Context(), cert)
	} else {
		_, err = p.sim.AddRoot(p.t.Context(), tee.Wire(), cert)
		if b := s.ready.Simulation.Collateral; err == nil && len(b) > 0 {
			_, err = p.client.ImportCollateral(p.t.Context(), b)
		}
	}
	if err != nil && !trusteeclient.IsConflict(err) {
		p.t.Fatal(err)
	}
}

// TestHostileHostFreshGuest plays the host against a guest that nobody else has
// spoken to: no attack works and none makes it fetch a key. Then it lets the pod
// start, which takes keys, and attacks the running pod.
func TestHostileHostFreshGuest(t *testing.T) { hostileHost(t, launch.TPMSim) }

// TestProcessHostileHost plays it against the same agent in a library OS.
func TestProcessHostileHost(t *testing.T) { hostileHost(t, launch.SGXSim) }

func hostileHost(t *testing.T, tee launch.TEE) {
	t.Parallel()
	home := shared.newHome(t)
	tr := shared.startTrustee(t, home, "")
	// With what only a cluster makes use of, so that there is no coffer run of it.
	probed := strings.Replace(victimPod, "  - name: app\n", "  - name: app\n    livenessProbe: {exec: {command: [/workload, probe, now]}}\n", 1)
	file := sealedVictimOf(t, home, probed, "--tee", string(tee))
	document, plan := openSealed(t, file)

	const id = "hostile"
	s := shared.startSandbox(t, home, id, document, plan, tee)
	tr.trust(s, tee)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	target, closeTarget, err := hostile.Dial(ctx, filepath.Join(s.dir, nodeapi.AgentSocket), plan, id)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = closeTarget() }()
	target.CallTimeout = patience // the first call waits for the guest to boot
	fresh, err := target.Fresh(ctx)
	denied(t, fresh)
	if err != nil {
		t.Fatal(err)
	}
	if n := tr.releases(); n != 0 {
		t.Errorf("the trustee has released %d keys or secrets to a guest under attack", n)
	}

	if err := target.Start(ctx); err != nil { // and this is what a release looks like
		t.Fatalf("the pod does not start after the attacks: %v", err)
	}
	waitRelease(t, tr, "default/test/secret") // the workload's own doing; the image's key was taken before
	before := tr.releases()
	target.CallTimeout = 30 * time.Second
	denied(t, target.Running(ctx))
	if err := target.Alive(ctx); err != nil {
		t.Errorf("the workload did not survive: %v", err)
	}
	if n := tr.releases(); n != before {
		t.Errorf("the attacks on the running pod made the trustee release %d more keys or secrets", n-before)
	}
	if n := len(tr.audit("attest")); n != 1 {
		t.Errorf("%d attestations for one pod, want one", n)
	}
}

// denied fails for every attack that was not denied as it must be. The victim
// has something of every kind, so none is left out.
func denied(t *testing.T, rs []hostile.Result) {
	t.Helper()
	for _, r := range rs {
		if r.Err != nil || r.Denial.Reason == hostile.NotApplicable {
			t.Error(r)
		}
	}
	if len(rs) < 15 {
		t.Errorf("only %d attacks", len(rs))
	}
}

// waitRelease waits until a secret has left the trustee.
func waitRelease(t *testing.T, tr *trusteeProc, resource string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if slices.ContainsFunc(tr.audit("release"), func(a audited) bool { return a.Resource == resource }) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no release of %s within %s", resource, patience)
		}
	}
}
