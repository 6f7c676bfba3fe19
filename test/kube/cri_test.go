package kube

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCRI walks every call of the Container Runtime Interface on a sealed pod
// (tools/cri, a module of its own: its client is no product's dependency). The kubelet,
// where one runs, is stopped meanwhile: it would remove pods that the API server does
// not know. With MODE=cri there is none, and BIN may name another containerd;
// COFFER_CRI_CLASS another class.
func TestCRI(t *testing.T) {
	k := cluster
	class := os.Getenv("COFFER_CRI_CLASS")
	if class == "" {
		class = "coffer-tpm-sim"
	}
	path, _ := k.seal(t, "tpm-sim", `apiVersion: v1
kind: Pod
metadata: {name: walk}
spec:
  runtimeClassName: `+class+`
  enableServiceLinks: false
  automountServiceAccountToken: false
  securityContext: {sysctls: [{name: net.ipv4.ip_local_port_range, value: "20000 60000"}]}
  containers:
  - name: main
    image: docker.io/library/busybox:latest
    command: [sh, -c, 'trap "exit 5" TERM; (while true; do printf "HTTP/1.0 200 OK\r\n\r\nfrom the guest\n" | nc -l -p 8080; done) & head -c 20000 /dev/zero | tr "\0" x; echo; echo to stderr >&2; while true; do echo tick; sleep 0.5; done']
    securityContext: {runAsUser: 1000, runAsGroup: 1000, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
  - name: shell
    image: docker.io/library/busybox:latest
    command: [sh]
    stdin: true
    tty: true
  - name: once
    image: docker.io/library/busybox:latest
    command: [sh, -c, 'while read l; do echo got $l; done; echo ended >&2; exit 3']
    stdin: true
    stdinOnce: true
`, "--allow-exec")
	if out := k.client(t, "TestWalk", "COFFER_CRI_POD="+path); !strings.Contains(out, "--- PASS: TestWalk ") {
		t.Error("the walk failed")
	}
	k.nothingLeft(t)
}

// TestStarts starts and removes 200 pods of the process class (COFFER_CRI_STARTS: as many
// as that) as a kubelet's client, and looks for what they leave.
func TestStarts(t *testing.T) {
	k := cluster
	n := os.Getenv("COFFER_CRI_STARTS")
	if n == "" {
		n = "200"
	}
	path, _ := k.seal(t, "sgx-sim", simple("starts", "coffer-process-sim", "echo here; sleep 3600"))
	if out := k.client(t, "TestStarts", "COFFER_CRI_POD="+path, "COFFER_CRI_STARTS="+n); !strings.Contains(out, "--- PASS: TestStarts ") {
		t.Error("not every start succeeded")
	}
	k.nothingLeft(t)
}

// client runs one of the tests of tools/cri inside the cluster, the kubelet stopped.
func (k *kube) client(t *testing.T, name string, env ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "cri.test")
	build := exec.Command("go", "test", "-gcflags=all=-dwarf=false -l", "-gcflags=std=-dwarf=false", "-c", "-o", program, ".") // build.sh's flags: most of it is there
	build.Dir = filepath.Join("tools", "cri")
	build.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false -trimpath")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the client: %v\n%s", err, out)
	}
	if kubelet, err := k.pid("bin/kubelet --config"); err == nil {
		k.must(t, "kill", "-STOP", kubelet)
		defer k.must(t, "kill", "-CONT", kubelet)
	}
	args := append(append([]string{"in.sh", "env"}, env...), program, "-test.v", "-test.timeout=9m", "-test.run=^"+name+"$")
	out, err := exec.Command("bash", args...).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return string(out)
}
