package kube

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// httpGet asks for path, of host and port: the test image's wget resolves names with
// a library that a static program does not have. The pause keeps nc from closing its
// side, which Go's servers take for the end of the request.
const httpGet = `(printf 'GET %s HTTP/1.0\r\n\r\n'; sleep 2) | nc -w 30 %s %d`

// simple is a pod of one container that runs script in a shell.
func simple(name, class, script string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  labels: {app: %[1]s}
spec:
  runtimeClassName: %s
  terminationGracePeriodSeconds: 2
  containers:
  - name: c
    image: docker.io/library/busybox:latest
    command: [sh, -c, %q]
`, name, class, script)
}

// TestPod is one ordinary pod with everything an ordinary pod has.
func TestPod(t *testing.T) { withEach(t, testPod) }

func testPod(t *testing.T, h holder) {
	k := cluster
	manifest := `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, shape.txt: "round\n"}
---
apiVersion: v1
kind: Pod
metadata:
  name: whole
  labels: {app: whole}
spec:
  runtimeClassName: ` + h.class + `
  terminationGracePeriodSeconds: 3
  initContainers:
  - name: prepare
    image: docker.io/library/busybox:latest
    command: [sh, -c, 'echo prepared > /scratch/state']
    volumeMounts: [{name: work, mountPath: /scratch}]
  containers:
  - name: web
    image: docker.io/library/busybox:latest
    command: [sh, -c, 'cat /scratch/state /etc/settings/shape.txt; echo colour=$COLOUR host=$(hostname); echo gone > /dev/termination-log; mkdir /www; echo from the guest > /www/index.html; trap "echo stopping; exit 0" TERM; httpd -p 8080 -h /www; while true; do sleep 0.2; done']
    env: [{name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}]
    ports: [{containerPort: 8080, hostPort: 18088}]
    resources: {limits: ` + h.limits + `}
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [NET_RAW]}}
    volumeMounts: [{name: work, mountPath: /scratch}, {name: settings, mountPath: /etc/settings}]
  volumes:
  - {name: work, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
`
	path, _ := k.seal(t, h.tee, manifest, "--allow-exec")
	k.apply(t, path)
	k.ready(t, "whole")
	for _, want := range []string{"prepared", "round", "colour=blue host=whole"} {
		k.logs(t, "whole", want)
	}
	t.Run("control group", func(t *testing.T) {
		pid, err := k.pid(h.process)
		if err != nil {
			t.Fatal(err)
		}
		uid := strings.TrimSpace(k.must(t, "kubectl", "get", "pod", "whole", "-o", "jsonpath={.metadata.uid}"))
		if out := k.must(t, "cat", "/proc/"+pid+"/cgroup"); !strings.Contains(out, uid) {
			t.Errorf("%s is not in the pod's control group:\n%s", h.process, out)
		}
	})
	t.Run("exec", func(t *testing.T) {
		if out := k.must(t, "kubectl", "exec", "whole", "-c", "web", "--", "sh", "-c", "echo $KUBERNETES_SERVICE_HOST; id -u"); out != "10.96.0.1\n0\n" {
			t.Errorf("%q", out)
		}
		if out, err := k.in("bash", "-c", "printf 'a\nb\n' | kubectl exec -i whole -c web -- wc -l"); err != nil || strings.TrimSpace(out) != "2" {
			t.Errorf("standard input: %q, %v", out, err)
		}
		if _, err := k.in("kubectl", "exec", "whole", "-c", "web", "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "exit code 7") {
			t.Errorf("exit code: %v", err)
		}
		if _, err := k.in("kubectl", "exec", "whole", "-c", "web", "--", "/no/such"); err == nil || !strings.Contains(err.Error(), "/no/such") {
			t.Errorf("a command that is not there: %v", err)
		}
	})
	t.Run("network", func(t *testing.T) {
		server := k.file(t, `apiVersion: v1
kind: Pod
metadata: {name: plain, labels: {app: plain}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: docker.io/library/busybox:latest
    command: [sh, -c, 'mkdir /www; echo from the node > /www/index.html; httpd -f -p 8080 -h /www']
---
apiVersion: v1
kind: Service
metadata: {name: plain}
spec: {selector: {app: plain}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: whole}
spec: {selector: {app: whole}, ports: [{port: 80, targetPort: 8080}]}
`)
		k.apply(t, server)
		k.ready(t, "plain")
		for _, c := range []struct{ from, service, want string }{{"whole", "plain", "from the node"}, {"plain", "whole", "from the guest"}} {
			ip := strings.TrimSpace(k.must(t, "kubectl", "get", "service", c.service, "-o", "jsonpath={.spec.clusterIP}"))
			eventually(t, c.from+" reaches "+c.service, func() (bool, string) {
				out, err := k.in("kubectl", "exec", c.from, "--", "sh", "-c", fmt.Sprintf(httpGet, "/", ip, 80))
				return err == nil && strings.Contains(out, c.want), fmt.Sprint(out, err)
			})
			// By its name too: UDP through the service of the cluster's DNS. (What else
			// looks names up in this busybox wants libraries that the image has not.)
			eventually(t, c.from+" finds "+c.service, func() (bool, string) {
				out, err := k.in("kubectl", "exec", c.from, "--", "nslookup", c.service+".default.svc.cluster.local")
				return err == nil && strings.Contains(out, "Address: "+ip), fmt.Sprint(out, err)
			})
			if out := k.must(t, "kubectl", "exec", c.from, "--", "cat", "/etc/resolv.conf"); !strings.Contains(out, "search default.svc.cluster.local svc.cluster.local cluster.local") ||
				!strings.Contains(out, "options ndots:5") {
				t.Errorf("%s has other search domains:\n%s", c.from, out)
			}
		}
	})
	t.Run("port-forward", func(t *testing.T) {
		out, err := k.in("bash", "-c", `kubectl port-forward pod/whole 18080:8080 18081:8081 > /dev/null & p=$!
			for _ in $(seq 50); do curl -sf --max-time 20 http://127.0.0.1:18080/ && break; sleep 0.2; done
			curl -s --max-time 20 http://127.0.0.1:18081/ && echo "a port that nobody has was answered"
			kill $p 2> /dev/null; true`) // it ends by itself where a port is refused
		if err != nil || out != "from the guest\n" {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("host port", func(t *testing.T) {
		eventually(t, "an answer at the node's port", func() (bool, string) {
			out, err := k.in("bash", "-c", "curl -sf --max-time 5 http://$NODE_IP:18088/")
			return err == nil && out == "from the guest\n", fmt.Sprint(out, err)
		})
	})
	t.Run("stats", func(t *testing.T) {
		eventually(t, "figures of the container", func() (bool, string) {
			out, err := k.in("kubectl", "get", "--raw", "/api/v1/nodes/node1/proxy/stats/summary")
			i := strings.Index(out, `"name": "web"`)
			if err != nil || i < 0 {
				return false, fmt.Sprint(len(out), err)
			}
			rest := out[i:min(len(out), i+900)]
			return strings.Contains(rest, `"workingSetBytes": `) && !strings.Contains(rest, `"workingSetBytes": 0,`) && strings.Contains(rest, `"usageCoreNanoSeconds": `), rest
		})
	})
	t.Run("stop", func(t *testing.T) {
		k.must(t, "kubectl", "delete", "pod", "whole", "--timeout=60s")
		k.nothingLeft(t)
	})
}

func (k *kube) file(t *testing.T, text string) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// TestSecret: the workload gets a secret that is bound to its seal, and not one
// that is bound to another's.
func TestSecret(t *testing.T) { withBoth(t, testSecret) }

func testSecret(t *testing.T, h holder) {
	k := cluster
	k.known(t, h)
	name := "secret-" + h.tee
	get := func(path string) string {
		return fmt.Sprintf(httpGet, "/cdh/resource/default/"+path, "127.0.0.1", 8006)
	}
	path, seal := k.seal(t, h.tee, simple(name, h.class,
		get(h.tee+"/mine")+"; echo; "+get(h.tee+"/other")+"; echo; echo asked; sleep 3600"))
	value := k.file(t, "correct horse")
	_, other := k.seal(t, h.tee, simple("another-"+h.tee, h.class, "sleep 3600"))
	for uri, to := range map[string]string{"default/" + h.tee + "/mine": seal, "default/" + h.tee + "/other": other} {
		k.must(t, append([]string{"coffer", "secret", "put", uri, "-n", "sim", "--from-file", value, "--for", to}, k.trustee...)...)
	}
	k.apply(t, path)
	k.logs(t, name, "asked")
	out := k.must(t, "kubectl", "logs", name)
	if !strings.Contains(out, "200 OK") || strings.Count(out, "correct horse") != 1 {
		t.Errorf("the pod got its own secret not once:\n%s", out)
	}
}

// TestDenials: what the owner has not sealed does not run, and the pod's events
// say why.
func TestDenials(t *testing.T) { withBoth(t, testDenials) }

func testDenials(t *testing.T, h holder) {
	k := cluster
	denied, unsealed, arguments := "denied-"+h.tee, "unsealed-"+h.tee, "arguments-"+h.tee
	path, _ := k.seal(t, h.tee, simple(denied, h.class, "sleep 3600"))
	t.Run("another command", func(t *testing.T) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		k.apply(t, k.file(t, strings.Replace(string(b), "sleep 3600", "sleep 3601", 1)))
		k.event(t, denied, "args-mismatch")
	})
	t.Run("exec and debug", func(t *testing.T) {
		k.must(t, "kubectl", "delete", "pod", denied, "--ignore-not-found", "--timeout=60s")
		k.apply(t, path)
		k.ready(t, denied)
		if _, err := k.in("kubectl", "exec", denied, "--", "id"); err == nil || !strings.Contains(err.Error(), "exec-denied") {
			t.Errorf("exec: %v", err)
		}
		k.must(t, "kubectl", "debug", denied, "--image=docker.io/library/busybox:latest", "--container=debugger", "--", "sleep", "60")
		k.event(t, denied, `container-undeclared: container "debugger"`)
	})
	t.Run("not sealed", func(t *testing.T) {
		k.apply(t, k.file(t, simple(unsealed, h.alias, "sleep 3600"))) // a published name of the class
		k.event(t, unsealed, "seal it with coffer seal")
	})
	t.Run("arguments of the host", func(t *testing.T) {
		pod := strings.Replace(simple(arguments, h.class, "sleep 3600"), "metadata:\n", "metadata:\n  annotations: {io.katacontainers.config.hypervisor.kernel_params: agent.log=debug}\n", 1)
		if !strings.Contains(pod, "kernel_params") {
			t.Fatal("the pod has no annotation: the test is broken")
		}
		k.apply(t, k.file(t, pod))
		k.event(t, arguments, "is refused: ")
		k.event(t, arguments, "(docs/kubernetes.md, annotations)")
	})
}

// event waits for an event or a container's reason that says want.
func (k *kube) event(t *testing.T, pod, want string) {
	t.Helper()
	eventually(t, "an event of "+pod+" with "+want, func() (bool, string) {
		out, err := k.in("kubectl", "describe", "pod", pod)
		return err == nil && strings.Contains(out, want), out
	})
}

// TestOtherTEEs: start, exec, a secret and a denial under each other class.
func TestOtherTEEs(t *testing.T) {
	k := cluster
	t.Run("no hardware", func(t *testing.T) {
		path, _ := k.seal(t, "tpm-sim", simple("bare", "coffer", "echo up; sleep 3600"))
		k.apply(t, path)
		k.event(t, "bare", "this node has no TEE hardware that a pod can run in: snp lacks ")
	})
	for _, tee := range []string{"snp-sim", "tdx-sim", "cca-sim"} {
		t.Run(tee, func(t *testing.T) {
			t.Parallel()
			testSmoke(t, holder{tee: tee, class: "coffer-" + tee})
		})
	}
}

func testSmoke(t *testing.T, h holder) {
	k := cluster
	k.known(t, h)
	name, denied := "smoke-"+h.tee, "smoke-denied-"+h.tee
	path, seal := k.seal(t, h.tee, simple(name, h.class, fmt.Sprintf(httpGet, "/cdh/resource/default/"+h.tee+"/smoke", "127.0.0.1", 8006)+"; echo; echo up; sleep 3600"), "--allow-exec")
	k.must(t, append([]string{"coffer", "secret", "put", "default/" + h.tee + "/smoke", "-n", "sim", "--from-file", k.file(t, "correct horse"), "--for", seal}, k.trustee...)...)
	k.apply(t, path)
	k.ready(t, name)
	k.logs(t, name, "up")
	k.logs(t, name, "correct horse")
	if out := k.must(t, "kubectl", "exec", name, "--", "echo", "hello"); out != "hello\n" {
		t.Errorf("exec: %q", out)
	}
	k.must(t, "kubectl", "delete", "pod", name, "--timeout=60s")
	path, _ = k.seal(t, h.tee, simple(denied, h.class, "sleep 3600"))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	k.apply(t, k.file(t, strings.Replace(string(b), "sleep 3600", "sleep 3601", 1)))
	k.event(t, denied, "args-mismatch")
}

// TestWhatAKubeletDoes: probes and hooks by command, a sidecar, the service account's
// files, host aliases; and a probe that fails restarts the container.
func TestWhatAKubeletDoes(t *testing.T) { withBoth(t, testWhatAKubeletDoes) }

func testWhatAKubeletDoes(t *testing.T, h holder) {
	k := cluster
	name := "probed-" + h.tee
	path, _ := k.seal(t, h.tee, `apiVersion: v1
kind: Pod
metadata: {name: `+name+`}
spec:
  runtimeClassName: `+h.class+`
  terminationGracePeriodSeconds: 2
  hostAliases: [{ip: 10.1.2.3, hostnames: [db.example]}]
  initContainers:
  - name: side
    image: docker.io/library/busybox:latest
    restartPolicy: Always
    command: [sh, -c, 'echo side is up; while true; do date > /scratch/beat; sleep 1; done']
    startupProbe: {exec: {command: [test, -s, /scratch/beat]}, periodSeconds: 1, failureThreshold: 60}
    volumeMounts: [{name: work, mountPath: /scratch}]
  containers:
  - name: c
    image: docker.io/library/busybox:latest
    terminationMessagePath: /run/words/last
    command: [sh, -c, 'echo last words > /run/words/last; S=/var/run/secrets/kubernetes.io/serviceaccount; cat /scratch/hello /scratch/beat; echo namespace=$(cat $S/namespace) token=$(wc -c < $S/token) ca=$(grep -c BEGIN $S/ca.crt); grep db.example /etc/hosts; touch /tmp/ok; sleep 3600']
    lifecycle: {postStart: {exec: {command: [sh, -c, 'touch /scratch/hello']}}}
    readinessProbe: {exec: {command: [test, -e, /tmp/ok]}, periodSeconds: 1, timeoutSeconds: 20}
    livenessProbe: {exec: {command: [test, '!', -e, /scratch/die]}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 20}
    volumeMounts: [{name: work, mountPath: /scratch}]
  volumes: [{name: work, emptyDir: {}}]
`, "--allow-exec")
	k.apply(t, path)
	k.ready(t, name)
	log := k.must(t, "kubectl", "logs", name, "-c", "c")
	for _, want := range []string{"namespace=default", "ca=1", "10.1.2.3\tdb.example"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
	if strings.Contains(log, "token=0") || !strings.Contains(log, "token=") {
		t.Errorf("no token:\n%s", log)
	}
	restarts := func() (string, error) {
		return k.in("kubectl", "get", "pod", name, "-o", `jsonpath={.status.containerStatuses[?(@.name=="c")].restartCount}`)
	}
	if out, err := restarts(); err != nil || out != "0" {
		t.Fatalf("restarts before there was a reason: %q, %v", out, err)
	}
	k.must(t, "kubectl", "exec", name, "-c", "c", "--", "touch", "/scratch/die")
	eventually(t, "the container's restart after its probe failed", func() (bool, string) {
		out, err := restarts()
		return err == nil && out != "0" && out != "", out
	})
	if out := k.must(t, "kubectl", "get", "pod", name, "-o", `jsonpath={.status.containerStatuses[?(@.name=="c")].lastState.terminated.message}`); strings.TrimSpace(out) != "last words" {
		t.Errorf("the termination message is %q", out)
	}
}
