package kube

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

// TestFeatures is what people do with pods beside starting them.
func TestFeatures(t *testing.T) {
	k := cluster
	path, _ := k.seal(t, "tpm-sim", `apiVersion: v1
kind: Secret
metadata: {name: feature}
stringData: {key: "not so secret\n"}
---
apiVersion: v1
kind: Pod
metadata:
  name: features
  labels: {app: features, tier: front}
spec:
  runtimeClassName: coffer-tpm-sim
  terminationGracePeriodSeconds: 2
  shareProcessNamespace: true
  securityContext:
    fsGroup: 2000
    sysctls: [{name: kernel.shm_rmid_forced, value: "1"}]
  containers:
  - name: c
    image: docker.io/library/busybox:latest
    command: [sh, -c, 'echo words $POD_IP $HOST_IP $NODE $POD_UID; id -u; id -G; cat /podinfo/labels /podinfo/key /proc/sys/kernel/shm_rmid_forced; touch /nowhere; echo own > /scratch/own; ls -ln /scratch/own; touch /part/mine && echo part is mine; echo files $(ulimit -Hn); nc -l -p 80 < /dev/null > /dev/null & sleep 1; kill $! && echo port 80 is mine; while true; do sleep 1; done']
    env:
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    securityContext: {runAsUser: 1000, runAsGroup: 1000, readOnlyRootFilesystem: true}
    volumeMounts: [{name: work, mountPath: /scratch}, {name: work, mountPath: /part, subPath: parts/c}, {name: info, mountPath: /podinfo}]
  - name: in
    image: gcr.io/google-samples/hello-app:2.0 # its ENV has PORT=8080
    stdin: true
    env: [{name: PORT, value: "9090"}]
    command: [sh, -c, 'echo port $PORT; while read line; do echo "read $line"; done; sleep 3600']
  - name: hog
    image: docker.io/library/busybox:latest
    command: [sh, -c, 'echo run; sleep 2; tail -c 200000000 /dev/zero > /dev/null; sleep 3600']
    resources: {limits: {memory: 24Mi}}
  volumes:
  - {name: work, emptyDir: {}}
  - name: info
    projected:
      sources:
      - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
      - secret: {name: feature}
`, "--allow-exec")
	k.apply(t, path)
	jsonpath := func(p string) string {
		return strings.TrimSpace(k.must(t, "kubectl", "get", "pod", "features", "-o", "jsonpath="+p))
	}
	eventually(t, "its first lines", func() (bool, string) {
		out, err := k.in("kubectl", "logs", "features", "-c", "c")
		return err == nil && strings.Contains(out, "port 80"), out
	})
	log := k.must(t, "kubectl", "logs", "features", "-c", "c")
	for _, want := range []string{
		"words " + jsonpath("{.status.podIP}") + " " + jsonpath("{.status.hostIP}") + " " + jsonpath("{.spec.nodeName}") + " " + jsonpath("{.metadata.uid}") + "\n",
		"\n1000\n", "1000 2000", `app="features"`, "not so secret\n", `tier="front"`, "\n1\n", "Read-only file system", " 1000 ", " 2000 ",
		"part is mine\n", "files 524288\n", "port 80 is mine\n",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
	if a, err := netip.ParseAddr(strings.Fields(log)[1]); err != nil || a.IsLoopback() {
		t.Errorf("address %v", a)
	}
	t.Run("processes of all containers", func(t *testing.T) {
		out := k.must(t, "kubectl", "exec", "features", "-c", "in", "--", "sh", "-c", `for p in /proc/[0-9]*; do tr '\0' ' ' < $p/cmdline; echo; done`)
		if !strings.Contains(out, "coffer-pod-init") || !strings.Contains(out, "echo words") {
			t.Errorf("%s", out)
		}
	})
	t.Run("a variable over the image's", func(t *testing.T) {
		eventually(t, "the first line", func() (bool, string) {
			out, err := k.in("kubectl", "logs", "features", "-c", "in")
			return err == nil && strings.HasPrefix(out, "port 9090\n"), out
		})
		if out := k.must(t, "kubectl", "exec", "features", "-c", "in", "--", "sh", "-c", "echo port $PORT"); out != "port 9090\n" {
			t.Errorf("exec: %q", out)
		}
	})
	t.Run("attach", func(t *testing.T) {
		// It ends with its input, the container goes on.
		_, _ = k.in("bash", "-c", "(echo one; sleep 1; echo two; sleep 1) | timeout 30 kubectl attach -i features -c in")
		eventually(t, "what was written to it", func() (bool, string) {
			out, err := k.in("kubectl", "logs", "features", "-c", "in")
			return err == nil && strings.Contains(out, "read one") && strings.Contains(out, "read two"), out
		})
	})
	t.Run("cp", func(t *testing.T) {
		from := k.file(t, "to and fro")
		back := filepath.Join(t.TempDir(), "back")
		k.must(t, "kubectl", "cp", from, "features:/scratch/copied", "-c", "c")
		k.must(t, "kubectl", "cp", "features:/scratch/copied", back, "-c", "c")
		if out := k.must(t, "cat", back); out != "to and fro" {
			t.Errorf("%q", out)
		}
	})
	t.Run("out of memory", func(t *testing.T) {
		eventually(t, "the end for its memory, and a restart", func() (bool, string) {
			out, err := k.in("kubectl", "get", "pod", "features", "-o", `jsonpath={.status.containerStatuses[?(@.name=="hog")]}`)
			return err == nil && strings.Contains(out, `"reason":"OOMKilled"`) && strings.Contains(out, `"exitCode":137`) && !strings.Contains(out, `"restartCount":0`), out
		})
		eventually(t, "the log of the run before", func() (bool, string) { // each restart has its own
			out, err := k.in("kubectl", "logs", "features", "-c", "hog", "--previous")
			return err == nil && strings.HasPrefix(out, "run\n"), out
		})
		if out := jsonpath(`{.status.containerStatuses[?(@.name=="c")].restartCount}`); out != "0" {
			t.Errorf("another container was restarted %s times", out)
		}
	})
	t.Run("logs", func(t *testing.T) {
		if out := k.must(t, "kubectl", "logs", "features", "-c", "in", "--tail=1"); out != "read two\n" {
			t.Errorf("the last line: %q", out)
		}
		out, _ := k.in("bash", "-c", "timeout 5 kubectl logs -f features -c in")
		if !strings.Contains(out, "read one") {
			t.Errorf("followed: %q", out)
		}
	})
}
