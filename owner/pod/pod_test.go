package pod

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const head = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n"

func withContainer(fields string) string {
	return head + "  containers:\n  - name: app\n    image: x\n    " + strings.ReplaceAll(fields, "\n", "\n    ") + "\n"
}

func withSpec(fields string) string {
	return head + "  containers: [{name: app, image: x}]\n  " + strings.ReplaceAll(fields, "\n", "\n  ") + "\n"
}

// TestRefusals: what Coffer cannot do names its path and reason.
func TestRefusals(t *testing.T) {
	for _, c := range []struct{ source, want string }{
		{withSpec("volumes: [{name: v, hostPath: {path: /}}]"), "spec.volumes[0].hostPath: leaves the TEE"},
		{withSpec("volumes: [{name: v, persistentVolumeClaim: {}}]"), "spec.volumes[0].persistentVolumeClaim.claimName: missing"},
		{withSpec("volumes: [{name: v, persistentVolumeClaim: {claimName: c}, emptyDir: {}}]"), "spec.volumes[0]: exactly one kind of volume belongs here"},
		{withSpec("volumes: [{name: v, emptyDir: {}, configMap: {name: c, optional: true}}]"), "spec.volumes[0]: exactly one kind"},
		{withSpec("volumes: [{name: v}]"), "spec.volumes[0]: exactly one kind"},
		{withSpec("volumes: [{name: v, emptyDir: {medium: HugePages}}]"), "spec.volumes[0].emptyDir.medium"},
		{withSpec("volumes: [{name: v, emptyDir: {sizeLimit: much}}]"), "spec.volumes[0].emptyDir.sizeLimit: \"much\" is no quantity"},
		{withSpec("volumes: [{name: v, configMap: {name: c}}]"), "spec.volumes[0].configMap.name: ConfigMap c is not in the file"},
		{withSpec("volumes: [{name: v, secret: {secretName: c}}]"), "spec.volumes[0].secret.secretName: Secret c is not in the file"},
		{withSpec("volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]"), "spec.volumes[0].projected.sources[0].serviceAccountToken: there is no cluster"},
		{withSpec("volumes: [{name: v, emptyDir: {}}, {name: v, emptyDir: {}}]"), "spec.volumes[1].name: \"v\" twice"},
		{withSpec("hostNetwork: true"), "spec.hostNetwork: leaves the TEE"},
		{withSpec("hostPID: true"), "spec.hostPID: leaves the TEE"},
		{withSpec("restartPolicy: Sometimes"), "spec.restartPolicy: \"Sometimes\" is not Always or OnFailure or Never"},
		{withSpec("restartpolicy: Never"), "spec.restartpolicy: unknown field, did you mean restartPolicy?"},
		{withSpec("tolerashions: []"), "spec.tolerashions: unknown field, did you mean tolerations?"},
		{withSpec("xyz: 1"), "spec.xyz: unknown field"},
		{withSpec("hostname: Web"), "spec.hostname: \"Web\" is not a DNS label"},
		{withSpec("terminationGracePeriodSeconds: ten"), "spec.terminationGracePeriodSeconds: a string where an integer belongs"},
		{withSpec("initContainers: [{name: app, image: x}]"), "spec.containers[0].name: \"app\" twice"},
		{withSpec("securityContext: {sysctls: [{name: kernel.core_pattern, value: x}]}"), "spec.securityContext.sysctls[0].name"},
		{withSpec("securityContext: {seccompProfile: {type: Localhost, localhostProfile: a}}"), "spec.securityContext.seccompProfile.localhostProfile: a file of the node"},
		{withSpec("securityContext: {runAsUser: -1}"), "spec.securityContext.runAsUser: -1 is not between"},
		{withSpec("securityContext: {seLinuxOptions: {level: s0}}"), "spec.securityContext.seLinuxOptions"},
		{withSpec("imagePullSecrets: [{name: a}]"), "spec.imagePullSecrets: credentials"},

		{withContainer("securityContext: {privileged: true}"), "spec.containers[0].securityContext.privileged"},
		{withContainer("securityContext: {capabilities: {add: [ROOT]}}"), "spec.containers[0].securityContext.capabilities.add[0]: \"ROOT\" is no capability"},
		{withContainer("securityContext: {procMount: Unmasked}"), "spec.containers[0].securityContext.procMount"},
		{withContainer("securityContext: {appArmorProfile: {type: RuntimeDefault}}"), "spec.containers[0].securityContext.appArmorProfile.type: RuntimeDefault: the guest kernel"},
		{withContainer("volumeDevices: [{name: v, devicePath: /dev/x}]"), "spec.containers[0].volumeDevices[0].name: there is no volume \"v\""},
		{withContainer("volumeDevices: [{name: v, devicePath: dev/x}]"), "spec.containers[0].volumeDevices[0].devicePath: \"dev/x\" is not an absolute path"},
		{withContainer("volumeDevices: [{name: v, devicePath: /dev/../etc}]"), "spec.containers[0].volumeDevices[0].devicePath: \"/dev/../etc\" is not an absolute path"},
		{withContainer("volumeDevices: [{name: v, devicePath: /proc/x}]"), "spec.containers[0].volumeDevices[0].devicePath: /proc/x belongs to"},
		{withContainer("volumeDevices: [{name: v, devicePath: /dev/x}, {name: w, devicePath: /dev/x}]"), "spec.containers[0].volumeDevices[1].devicePath: /dev/x twice"},
		{withContainer("volumeDevices: [{name: v, devicePath: /dev/x, readOnly: true}]"), "spec.containers[0].volumeDevices[0].readOnly"},
		{withContainer("volumeMounts: [{name: v, mountPath: /m}]"), "spec.containers[0].volumeMounts[0].name: there is no volume \"v\""},
		{withContainer("volumeMounts: [{name: v, mountPath: /proc/x}]"), "spec.containers[0].volumeMounts[0].mountPath: /proc/x belongs to"},
		{withContainer("volumeMounts: [{name: v, mountPath: /m, subPath: ../x}]"), "spec.containers[0].volumeMounts[0].subPath: \"../x\" leaves the volume"},
		{withContainer("volumeMounts: [{name: v, mountPath: /m, subPathExpr: $(NO)}]"), "spec.containers[0].volumeMounts[0].subPath: subPathExpr names a variable"},
		{withContainer("volumeMounts: [{name: v, mountPath: /m, mountPropagation: Bidirectional}]"), "spec.containers[0].volumeMounts[0].mountPropagation"},
		{withContainer("ports: [{containerPort: 80, protocol: SCTP}]"), "spec.containers[0].ports[0].protocol"},
		{withContainer("ports: [{containerPort: 99999}]"), "spec.containers[0].ports[0].containerPort"},
		{withContainer("resources: {limits: {hugepages-2Mi: 1Mi}}"), "spec.containers[0].resources.limits[hugepages-2Mi]: only cpu, memory and devices"},
		{withContainer("resources: {limits: {memory: 1Mi}, requests: {memory: 2Mi}}"), "spec.containers[0].resources.requests[memory]: more than the limit 1Mi"},
		{withContainer("env: [{name: A, value: 5}]"), "spec.containers[0].env[0].value: a number where a string (quote it) belongs"},
		{withContainer("env: [{name: A, value: yes}]"), "spec.containers[0].env[0].value: true or false where a string (quote it) belongs"},
		{withContainer("env: [{name: 'A=B', value: x}]"), "spec.containers[0].env[0].name"},
		{withContainer("env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.phase}}}]"), "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: status.phase is the host's word"},
		{withContainer("env: [{name: LD_PRELOAD, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]"), "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: LD_PRELOAD decides what code a program loads"},
		{withContainer("env: [{name: A, valueFrom: {fieldRef: {apiVersion: v2, fieldPath: status.podIP}}}]"), "apiVersion \"v2\" is not v1"},
		{withContainer("args: [a, $(IP)]\nenv: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]"), "spec.containers[0].args[1]: $(IP) is the cluster's word"},
		{withContainer("env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: URL, value: http://$(IP)}]"), "spec.containers[0].env[1].value: $(IP) is the cluster's word"},
		{withContainer("volumeMounts: [{name: v, mountPath: /m, subPathExpr: $(IP)}]\nenv: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]"), "$(IP) is the cluster's word"},
		{withContainer("env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}]"), "spec.containers[0].env[0].valueFrom.resourceFieldRef.resource: the container does not set limits.cpu"},
		{withContainer("env: [{name: A, valueFrom: {}}]"), "spec.containers[0].env[0].valueFrom: exactly one source"},
		{withContainer("env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]"), "spec.containers[0].env[0].valueFrom.secretKeyRef.name: Secret s is not in the file"},
		{withContainer("envFrom: [{configMapRef: {name: c}}]"), "spec.containers[0].envFrom[0].configMapRef.name: ConfigMap c is not in the file"},
		{withContainer("command: run"), "spec.containers[0].command: a string where a list belongs"},
		{withContainer("command: [1]"), "spec.containers[0].command[0]: a number where a string (quote it) belongs"},
		{withContainer("workingDir: tmp"), "spec.containers[0].workingDir"},
		{withContainer("image: y"), "already set in map"},

		{withContainer("restartPolicy: Always"), "spec.containers[0].restartPolicy: only an init container"},
		{withSpec("initContainers: [{name: i, image: x, restartPolicy: Never}]"), "spec.initContainers[0].restartPolicy: \"Never\" is not Always"},
		{withSpec("initContainers: [{name: i, image: x, livenessProbe: {exec: {command: [a]}}}]"), "spec.initContainers[0]: an init container has no probes"},
		{withContainer("livenessProbe: {exec: {comand: [a]}}"), "spec.containers[0].livenessProbe.exec.comand: unknown field, did you mean command?"},
		{withContainer("livenessProbe: {exec: {command: a}}"), "spec.containers[0].livenessProbe.exec.command: a string where a list belongs"},
		{withContainer("lifecycle: {stopSignal: SIGUSR1}"), "spec.containers[0].lifecycle.stopSignal: not supported yet"},
		{withContainer("terminationMessagePath: tmp/x"), "spec.containers[0].terminationMessagePath: \"tmp/x\" is not an absolute path"},
		{withSpec("hostAliases: [{ip: x, hostnames: [a]}]"), "spec.hostAliases[0].ip: \"x\" is no address"},
		{withSpec("hostAliases: [{ip: 10.1.2.3, hostnames: [a_b/]}]"), "spec.hostAliases[0].hostnames[0]"},
		{"", "the file holds no object"},
		{"# nothing\n---\n", "the file holds no object"},
		{"hello", "no mapping"},
		{"{", "document 1"},
		{"apiVersion: v1\nkind: Pod\n\tx: y", "document 1"},
		{"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}", "the file has 0 Pods"},
		{head + "  containers: [{name: a, image: x}]\n---\n" + head + "  containers: [{name: a, image: x}]\n", "the file has 2 Pods"},
		{head + "  containers: []\n", "spec.containers: missing"},
		{"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n", "document 1: apps/v1 Deployment: a controller's object"},
		{"a: b\n", "document 1: neither apiVersion nor kind"},
		{"apiVersion: v1\nkind: Pod\nmetadata: {name: Web_}\nspec: {containers: [{name: app, image: x}]}\n", "metadata.name: \"Web_\" is not a DNS name"},
		{"apiVersion: v1\nkind: Pod\nmetadata: {generateName: a}\nspec: {containers: [{name: app, image: x}]}\n", "metadata.generateName"},
		{withSpec("") + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: '%%hunter2%%'}\n", "Secret s: data: not base64"},
		{withSpec("") + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a/b: x}\n", "ConfigMap c: data[a/b]: keys are letters"},
		{withSpec("") + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: other}\n", "ConfigMap c: metadata.namespace: other is not the pod's namespace default"},
		{withSpec("") + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndate: {}\n", "ConfigMap c: date: unknown field, did you mean data?"},
		{withSpec("") + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n", "ConfigMap c: given twice"},
	} {
		_, err := Parse([]byte(c.source))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v\nwant %s\nfor %s", err, c.want, c.source)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a secret in %v", err)
		}
	}
}

// TestWhatOnlyAClusterDoes: a manifest may have it, and Cluster says so.
func TestWhatOnlyAClusterDoes(t *testing.T) {
	p, err := Parse([]byte(head + `
  activeDeadlineSeconds: 60
  dnsConfig: {nameservers: [10.96.0.10], options: [{name: ndots, value: "2"}]}
  initContainers:
  - {name: side, image: x, restartPolicy: Always, startupProbe: {exec: {command: [up]}}}
  containers:
  - name: app
    image: x
    env:
    - {name: UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    ports: [{containerPort: 80, hostPort: 8080}]
    resources: {limits: {nvidia.com/pgpu: 1, cpu: 1}}
    livenessProbe: {exec: {command: [alive, now]}, periodSeconds: 5}
    readinessProbe: {exec: {command: [alive, now]}}
    startupProbe: {httpGet: {path: /, port: 80}}
    lifecycle: {postStart: {exec: {command: [hello]}}, preStop: {sleep: {seconds: 1}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, c := range p.Cluster {
		paths = append(paths, c.Path)
	}
	slices.Sort(paths)
	want := []string{
		"spec.activeDeadlineSeconds", "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath", "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath", "spec.containers[0].lifecycle", "spec.containers[0].livenessProbe", "spec.containers[0].ports[0].hostPort",
		"spec.containers[0].readinessProbe", "spec.containers[0].resources.limits[nvidia.com/pgpu]", "spec.containers[0].startupProbe", "spec.dnsConfig", "spec.initContainers[0].restartPolicy",
		"spec.initContainers[0].startupProbe",
	}
	if !slices.Equal(paths, want) {
		t.Errorf("got %q\nwant %q", paths, want)
	}
	all := p.All()
	if !all[0].Sidecar() || all[1].Sidecar() {
		t.Error("the init container that stays is the sidecar")
	}
	if got := fmt.Sprint(all[0].Commands(), all[1].Commands()); got != "[[up]] [[alive now] [hello]]" {
		t.Errorf("commands %s", got)
	}
}

func TestAllProblemsAtOnceAndSorted(t *testing.T) {
	_, err := Parse([]byte(head + `
  hostPID: true
  containers:
  - {name: a, image: x, stdin: maybe}
` + strings.Repeat("  - {name: a, image: x}\n", 8) + `
  - {name: b, image: x, tty: maybe}
  - {name: c, image: x, resizePolicy: [{}]}
  volumes: [{name: v, hostPath: {path: /}}]
`))
	var e *Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	var paths []string
	for _, p := range e.Problems {
		paths = append(paths, p.Path)
	}
	want := []string{"spec.containers[0].stdin", "spec.containers[9].tty", "spec.containers[10].resizePolicy", "spec.hostPID", "spec.volumes[0].hostPath"}
	if !slices.Equal(paths, want) {
		t.Errorf("got %q\nwant %q", paths, want)
	}
}

func TestWhatIsSpelledOutAndMeansNothingIsFine(t *testing.T) {
	p, err := Parse([]byte(withSpec("hostNetwork: false\nhostPID: false\nhostAliases: []\nnodeName: n1\ndnsPolicy: ClusterFirst\nvolumes: null") + "status: {phase: Running}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"spec.dnsPolicy: ", "spec.nodeName: scheduling is the cluster's work", "status: set by the API server"}
	if len(p.Notes) != len(want) {
		t.Fatalf("%q", p.Notes)
	}
	for i, n := range p.Notes {
		if !strings.HasPrefix(n, want[i]) {
			t.Errorf("%q", n)
		}
	}
}

const objects = `---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {B: "2", A: "1", file.txt: text}
binaryData: {bin: AAEC}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
data: {K: a2V5, P: cHc=}
stringData: {P: plain}
`

func TestEnvironment(t *testing.T) {
	p, err := Parse([]byte(withContainer(`resources: {limits: {cpu: 1500m, memory: 100Mi}, requests: {cpu: 250m}}
command: [run, $(ONE), $(NONE), $$(ONE)]
args: ["$(PASS)"]
envFrom:
- {configMapRef: {name: c}, prefix: X_}
- {secretRef: {name: s}}
- {configMapRef: {name: gone, optional: true}}
env:
- {name: ONE, value: "1"}
- {name: TWO, value: "$(ONE)$(X_B) $(LATER) $$(ONE)"}
- {name: LATER, value: l}
- {name: X_A, value: replaced}
- {name: PASS, valueFrom: {secretKeyRef: {name: s, key: P}}}
- {name: URL, value: "u:$(PASS)"}
- {name: OPT, valueFrom: {configMapKeyRef: {name: c, key: none, optional: true}}}
- {name: CM, valueFrom: {configMapKeyRef: {name: c, key: A}}}
- {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: NS, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}}
- {name: LBL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['no']"}}}
- {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
- {name: MCPU, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
- {name: MEM, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
- {name: RMEM, valueFrom: {resourceFieldRef: {containerName: app, resource: requests.memory}}}`) + objects))
	if err != nil {
		t.Fatal(err)
	}
	proc, err := p.Process(p.All()[0])
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	secret := ""
	for _, v := range proc.Env {
		got[v.Name] = v.Value
		if v.Secret {
			secret += v.Name + " "
			if strings.Contains(fmt.Sprint(v), v.Value) {
				t.Errorf("%v prints a secret", v)
			}
		}
	}
	want := map[string]string{
		"X_A": "replaced", "X_B": "2", "X_file.txt": "text", "K": "key", "P": "plain", "ONE": "1", "TWO": "12 $(LATER) $(ONE)", "LATER": "l", "PASS": "plain", "URL": "u:plain",
		"CM": "1", "POD": "web", "NS": "default", "LBL": "", "CPU": "2", "MCPU": "250", "MEM": "100", "RMEM": "104857600",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if secret != "K P PASS URL " {
		t.Errorf("secret: %s", secret)
	}
	if !slices.Equal(proc.Command, []string{"run", "1", "$(NONE)", "$(ONE)"}) || !slices.Equal(proc.Args, []string{"plain"}) || !proc.SecretArgs {
		t.Errorf("%+v", proc)
	}
}

func TestVolumeFiles(t *testing.T) {
	p, err := Parse([]byte("apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {b: 'x \"y\"', a: z}}\nspec:\n  containers: [{name: app, image: x}]\n" + `
  volumes:
  - {name: all, configMap: {name: c}}
  - {name: items, configMap: {name: c, defaultMode: 0600, items: [{key: A, path: d/a}, {key: bin, path: b, mode: 292}]}}
  - {name: gone, secret: {secretName: none, optional: true}}
  - {name: sec, secret: {secretName: s, defaultMode: 256}}
  - {name: mix, projected: {sources: [{configMap: {name: c, items: [{key: A, path: a}]}}, {secret: {name: s, items: [{key: K, path: k}]}}, {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}]}}
  - {name: empty, emptyDir: {}}
` + objects))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"all":   "A=1/644 B=2/644 bin=\x00\x01\x02/644 file.txt=text/644 ",
		"items": "b=\x00\x01\x02/444 d/a=1/600 ",
		"gone":  "",
		"sec":   "K=key/400 P=plain/400 ",
		"mix":   "a=1/644 k=key/644 labels=a=\"z\"\nb=\"x \\\"y\\\"\"/644 ",
		"empty": "no files",
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		files, ok, err := p.VolumeFiles(v)
		got := ""
		for _, name := range keys(files) {
			got += fmt.Sprintf("%s=%s/%o ", name, files[name].Data, files[name].Mode)
		}
		if !ok {
			got = "no files"
		}
		if err != nil || got != want[v.Name] {
			t.Errorf("%s: %v, got %q, want %q", v.Name, err, got, want[v.Name])
		}
	}
}

// TestTableNamesRealFields holds the table against the API types, and the types
// of Kubernetes' next version against the table.
func TestTableNamesRealFields(t *testing.T) {
	for _, f := range Fields {
		root, path := reflect.TypeFor[corev1.Pod](), f.Path
		if rest, ok := strings.CutPrefix(path, "ConfigMap."); ok {
			root, path = reflect.TypeFor[corev1.ConfigMap](), rest
		}
		if rest, ok := strings.CutPrefix(path, "Secret."); ok {
			root, path = reflect.TypeFor[corev1.Secret](), rest
		}
		typ := root
		for _, name := range strings.Split(path, ".") {
			name, list := strings.CutSuffix(name, "[]")
			for typ.Kind() == reflect.Pointer {
				typ = typ.Elem()
			}
			next, ok := jsonFields(typ)[name]
			if !ok {
				t.Errorf("%s: there is no such field", f.Path)
				break
			}
			typ = next
			if list {
				typ = typ.Elem()
			}
		}
		if f.State != Supported && f.Reason == "" {
			t.Errorf("%s: no reason", f.Path)
		}
	}
	listed := map[string]bool{}
	for _, f := range Fields {
		if listed[f.Path] {
			t.Errorf("%s: twice", f.Path)
		}
		listed[f.Path] = true
	}
	for _, parent := range []struct {
		path string
		typ  reflect.Type
	}{{"spec.", reflect.TypeFor[corev1.PodSpec]()}, {"spec.containers[].", reflect.TypeFor[corev1.Container]()}, {"spec.volumes[].", reflect.TypeFor[corev1.Volume]()}, {"spec.securityContext.", reflect.TypeFor[corev1.PodSecurityContext]()}, {"spec.containers[].securityContext.", reflect.TypeFor[corev1.SecurityContext]()}} {
		for name := range jsonFields(parent.typ) {
			if !listed[parent.path+name] {
				t.Errorf("%s%s: not in the table: give it a row with a reason", parent.path, name)
			}
		}
	}
}

// TestSupportTable: docs/kubernetes.md has the parser's own table between its marks.
func TestSupportTable(t *testing.T) {
	const page, begin, end = "../../docs/kubernetes.md", "<!-- fields -->\n", "<!-- /fields -->"
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), begin)
	have, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s: no table between %q and %q", page, begin, end)
	}
	if have == SupportTable() {
		return
	}
	if os.Getenv("UPDATE_GOLDEN") != "1" {
		t.Fatalf("%s is not what the parser's table gives: UPDATE_GOLDEN=1 go test ./owner/pod", page)
	}
	if err := os.WriteFile(page, []byte(before+begin+SupportTable()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(withSpec("") + objects))
	f.Add([]byte(withContainer("env: [{name: A, value: $(A)$$(B)$(}]\nvolumeMounts: [{name: v, mountPath: /a, subPathExpr: $(A)}]")))
	f.Add([]byte("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: b}], volumes: [{name: v, projected: {sources: [null]}}]}}"))
	f.Add([]byte("a: &a [*a, *a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || len(e.Problems) == 0 {
				t.Fatalf("%v is no *Error", err)
			}
			return
		}
		for _, c := range p.All() {
			if _, err := p.Process(c); err != nil {
				t.Fatalf("a parsed pod fails later: %v", err)
			}
		}
		for i := range p.Spec.Volumes {
			if _, _, err := p.VolumeFiles(&p.Spec.Volumes[i]); err != nil {
				t.Fatalf("a parsed pod fails later: %v", err)
			}
		}
	})
}
