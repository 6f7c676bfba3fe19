package kube

import (
	"strings"
	"testing"
)

// TestSandboxAPI: the same pods where containerd makes them by the sandbox API
// (sandboxer = "shim"): a process with all that goes another way there, and a VM.
func TestSandboxAPI(t *testing.T) {
	k := cluster
	t.Run("not sealed", func(t *testing.T) {
		k.apply(t, k.file(t, simple("open", "coffer-process-sim-sandbox", "sleep 3600")))
		k.event(t, "open", "seal it with coffer seal")
		k.must(t, "kubectl", "delete", "pod", "open", "--timeout=60s")
		k.nothingLeft(t)
	})
	t.Run("sgx-sim", testProcessBySandboxAPI)
	t.Run("tpm-sim", func(t *testing.T) {
		path, _ := k.seal(t, "tpm-sim", simple("by-api", "coffer-tpm-sim-sandbox", "echo in a VM of $(hostname); sleep 3600"), "--allow-exec")
		k.apply(t, path)
		k.ready(t, "by-api")
		k.logs(t, "by-api", "in a VM of by-api")
		k.must(t, "kubectl", "exec", "by-api", "--", "true")
		k.must(t, "kubectl", "delete", "pod", "by-api", "--timeout=60s")
	})
	// The shim of a stopped sandbox stays until the kubelet removes that, a minute later.
	if out := k.client(t, "TestRemoveStopped", "COFFER_CRI_REMOVE=1"); !strings.Contains(out, "--- PASS: TestRemoveStopped ") {
		t.Error("not every sandbox was removed")
	}
	k.nothingLeft(t)
}

func testProcessBySandboxAPI(t *testing.T) {
	k := cluster
	path, _ := k.seal(t, "sgx-sim", `apiVersion: v1
kind: ConfigMap
metadata: {name: api-settings}
data: {colour: blue}
---
apiVersion: v1
kind: Pod
metadata: {name: api}
spec:
  runtimeClassName: coffer-process-sim-sandbox
  terminationGracePeriodSeconds: 2
  initContainers:
  - name: first
    image: docker.io/library/busybox:latest
    command: [sh, -c, 'echo gone > /dev/termination-log']
  containers:
  - name: c
    image: docker.io/library/busybox:latest
    command: [sh, -c, 'echo colour $(cat /etc/settings/colour) host $(hostname); cat /etc/resolv.conf; n=0; while true; do echo tick $n; n=$((n+1)); sleep 0.5; done']
    readinessProbe: {exec: {command: [test, -e, /etc/settings/colour]}, periodSeconds: 1}
    volumeMounts: [{name: settings, mountPath: /etc/settings}]
  volumes:
  - {name: settings, configMap: {name: api-settings}}
`, "--allow-exec")
	k.apply(t, path)
	k.ready(t, "api") // its probe is an exec
	k.logs(t, "api", "colour blue host api")
	k.logs(t, "api", "search default.svc.cluster.local") // resolv.conf comes as configuration here
	status := func(path string) string {
		out, _ := k.in("kubectl", "get", "pod", "api", "-o", "jsonpath={"+path+"}")
		return strings.TrimSpace(out)
	}
	if m := status(".status.initContainerStatuses[0].state.terminated.message"); m != "gone" {
		t.Errorf("termination message %q", m)
	}
	pid, err := k.pid("runsc-sandbox")
	if err != nil {
		t.Fatal(err)
	}
	if out := k.must(t, "cat", "/proc/"+pid+"/cgroup"); !strings.Contains(out, status(".metadata.uid")) {
		t.Errorf("the TEE is not in the pod's control group:\n%s", out)
	}
	if out := k.must(t, "kubectl", "exec", "api", "--", "sh", "-c", "id -u; ip addr"); !strings.HasPrefix(out, "0\n") || !strings.Contains(out, "inet 10.88.0.") {
		t.Errorf("%q", out)
	}
	eventually(t, "figures of the pod", func() (bool, string) {
		out, err := k.in("kubectl", "get", "--raw", "/api/v1/nodes/node1/proxy/stats/summary")
		i := strings.Index(out, `"name": "api"`)
		if err != nil || i < 0 {
			return false, out
		}
		out = out[i:min(len(out), i+1500)]
		return strings.Contains(out, `"usageCoreNanoSeconds": `) && strings.Contains(out, `"workingSetBytes": `), out
	})
	k.killContainerd(t, "api")
	if n := status(".status.containerStatuses[0].restartCount"); n != "0" {
		t.Errorf("containerd's end restarted the pod %s times", n)
	}
	k.must(t, "kill", "-9", pid)
	eventually(t, "the pod's restart after its TEE was killed", func() (bool, string) {
		n := status(".status.containerStatuses[0].restartCount")
		return n == "1", n
	})
	k.ready(t, "api")
	// The newest: the sandbox before this one may still have its shim.
	k.must(t, "kill", "-9", strings.TrimSpace(k.must(t, "pgrep", "-n", "-f", shimProcess)))
	eventually(t, "containerd notices that the shim was killed", func() (bool, string) {
		return status(".status.containerStatuses[0].ready") == "false", ""
	})
	k.must(t, "kubectl", "delete", "pod", "api", "--timeout=60s")
}
