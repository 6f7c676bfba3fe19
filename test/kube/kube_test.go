// Package kube runs sealed pods on a Kubernetes of its own (up.sh: API server,
// controllers, kubelet, containerd, all real), with Coffer's shim. It needs root,
// the built platform and build.sh's binaries; make e2e-kube sets all that up.
package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience bounds every wait: emulated guests on a busy machine are slow, a hang is longer.
const patience = 150 * time.Second

var cluster *kube

type kube struct {
	dir     string // scratch
	trustee []string
	base    string // $B
	cache   string
}

func TestMain(m *testing.M) {
	if os.Getenv("COFFER_KUBE_TEST") != "1" {
		fmt.Println("kube: skipped: needs COFFER_KUBE_TEST=1, root, the built platform and Kubernetes; make e2e-kube sets them up")
		os.Exit(0)
	}
	os.Exit(func() int {
		k, down, err := up()
		if down != nil {
			defer down()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "kube: setting up:", err)
			return 1
		}
		cluster = k
		code := m.Run()
		if code != 0 {
			k.tell()
		}
		return code
	}())
}

func up() (*kube, func(), error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, nil, err
	}
	k := &kube{base: os.Getenv("COFFER_KUBE"), cache: os.Getenv("COFFER_CACHE")}
	if k.base == "" {
		k.base = filepath.Join(home, ".cache/coffer-kube")
	}
	if k.cache == "" {
		k.cache = filepath.Join(home, ".cache/coffer")
	}
	if k.dir, err = os.MkdirTemp("", "coffer-kube-"); err != nil {
		return nil, nil, err
	}
	down := func() {
		_ = exec.Command("bash", "down.sh").Run()
		_ = os.RemoveAll(k.dir)
	}
	cmd := exec.Command("bash", "up.sh")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, down, fmt.Errorf("starting the cluster: %w", err)
	}
	return k, down, k.setUp()
}

// setUp lets the owner's tools reach the cluster's trustee and registry.
func (k *kube) setUp() error {
	var trustee struct {
		URL   string `json:"url"`
		CA    string `json:"ca_pem"`
		Admin string `json:"admin_key_path"`
	}
	var mirror struct {
		Registries string `json:"registries"`
	}
	if err := k.serves("trustee", &trustee, func() bool { return trustee.URL != "" }); err != nil {
		return err
	}
	if err := k.serves("mirror", &mirror, func() bool { return mirror.Registries != "" }); err != nil {
		return err
	}
	for name, text := range map[string]string{"ca.pem": trustee.CA, "registries.conf": mirror.Registries} {
		if err := os.WriteFile(filepath.Join(k.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	k.trustee = []string{"--trustee", trustee.URL, "--trustee-ca", filepath.Join(k.dir, "ca.pem"), "--admin-key", trustee.Admin}
	if os.Getenv("MODE") == "cri" { // containerd without a cluster
		return nil
	}
	args := []string{"kubectl", "apply", "-f", filepath.Join(k.base, "run", "coffer", "runtimeclasses.yaml")}
	if more := filepath.Join(k.base, "run", "coffer-shim", "runtimeclasses.yaml"); exists(more) { // containerd 1.7 has no sandbox API
		args = append(args, "-f", more)
	}
	_, err := k.in(args...)
	return err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// serves reads the JSON line that a program prints when it serves; its log has others.
func (k *kube) serves(log string, v any, ok func() bool) error {
	path := filepath.Join(k.base, "logs", log+".log")
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		b, err := os.ReadFile(path)
		for line := range bytes.Lines(b) {
			if json.Unmarshal(line, v) == nil && ok() {
				return nil
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s did not get ready: %w\n%s", log, errors.Join(errNone, err), b)
		}
	}
}

// in runs a command inside the cluster's namespaces and gives its output.
func (k *kube) in(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", append([]string{"in.sh"}, args...)...)
	cmd.Env = append(os.Environ(), "COFFER_STATE="+filepath.Join(k.dir, "state"))
	cmd.WaitDelay = time.Second
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errb.String())
	}
	return out.String(), nil
}

func (k *kube) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := k.in(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tell prints what containerd logged last, for whoever reads a failed run.
func (k *kube) tell() {
	b, err := os.ReadFile(filepath.Join(k.base, "logs", "containerd.log"))
	if err != nil {
		return
	}
	lines := strings.Split(string(b), "\n")
	fmt.Fprintln(os.Stderr, "containerd, last lines:\n"+strings.Join(lines[max(0, len(lines)-60):], "\n"))
}

// seal seals a manifest for a TEE and gives the sealed one's path and the seal.
func (k *kube) seal(t *testing.T, tee, manifest string, flags ...string) (path, seal string) {
	t.Helper()
	dir := t.TempDir()
	plain := filepath.Join(dir, "pod.yaml")
	path = filepath.Join(dir, "sealed.yaml")
	if err := os.WriteFile(plain, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"coffer", "seal", plain, "--tee", tee, "--out", path, "--registries", filepath.Join(k.dir, "registries.conf"), "--output", "json"}, k.trustee...)
	if p := os.Getenv("COFFER_PLATFORM"); p != "" {
		args = append(args, "--platform", p)
	}
	out := k.must(t, append(args, flags...)...)
	var res struct {
		Seal string `json:"seal"`
	}
	if err := json.Unmarshal([]byte(out), &res); err != nil || res.Seal == "" {
		t.Fatalf("coffer seal said %s (%v)", out, err)
	}
	return path, res.Seal
}

// apply hands a manifest to the cluster and deletes its pods at the test's end.
func (k *kube) apply(t *testing.T, path string) {
	t.Helper()
	k.must(t, "kubectl", "apply", "-f", path)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := k.in("kubectl", "describe", "-f", path)
			t.Logf("%s", out)
		}
		if _, err := k.in("kubectl", "delete", "-f", path, "--ignore-not-found", "--timeout=60s"); err != nil {
			t.Error(err)
		}
	})
}

func (k *kube) ready(t *testing.T, pod string) {
	t.Helper()
	k.must(t, "kubectl", "wait", "--for=condition=Ready", "pod/"+pod, fmt.Sprintf("--timeout=%ds", int(patience.Seconds())-5))
}

// eventually waits until f holds.
func eventually(t *testing.T, what string, f func() (bool, string)) {
	t.Helper()
	last := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
		ok, said := f()
		if ok {
			return
		}
		last = said
	}
	t.Fatalf("%s: not within %s; last: %s", what, patience, last)
}

func (k *kube) logs(t *testing.T, pod, want string) {
	t.Helper()
	eventually(t, "a line of "+pod+"'s log with "+want, func() (bool, string) {
		out, err := k.in("kubectl", "logs", pod)
		return err == nil && strings.Contains(out, want), out
	})
}

// root registers the machine's simulated TPM manufacturer, so that guests attest.
func (k *kube) root(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(k.cache, "tpm-sim-ca", "ek-root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			t.Fatal("no certificate in ek-root.pem")
		}
		b = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		path := filepath.Join(t.TempDir(), "root.pem")
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := k.in(append([]string{"coffer", "root", "add", path, "-n", "sim", "--tee", "tpm"}, k.trustee...)...); err != nil && !strings.Contains(err.Error(), "already") {
			t.Fatal(err)
		}
		return
	}
}

// left lists what the shim's pods have on the node.
func (k *kube) left(t *testing.T) string {
	t.Helper()
	out := k.must(t, "bash", "-c", `
		ps axo args | grep -E '^(/[^ ]*)?(containerd-shim-coffer-v2|coffer-qemu|coffer-simhw|coffer-runsc|runsc-)|swtpm socket|coffer-node supervise|qemu-system' | grep -v grep | cut -c1-60 || true
		ls /run/coffer/shim /run/containerd/s /run/netns 2>/dev/null | grep -v ':$' | grep . || true
		grep -c coffer /proc/mounts | grep -vx 0 | sed 's/^/mounts of coffer: /' || true
		ip -o link | grep -E 'coffer|veth' || true`)
	return strings.TrimSpace(out)
}

func (k *kube) nothingLeft(t *testing.T) {
	t.Helper()
	eventually(t, "nothing is left of the pods", func() (bool, string) { out := k.left(t); return out == "", out })
}

var errNone = errors.New("no such process")

// pid finds the one process in the cluster whose arguments match.
func (k *kube) pid(pattern string) (string, error) {
	out, err := k.in("pgrep", "-f", pattern)
	if err != nil {
		return "", err
	}
	if f := strings.Fields(out); len(f) > 0 {
		return f[0], nil
	}
	return "", errNone
}
