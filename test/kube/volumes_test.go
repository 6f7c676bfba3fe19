package kube

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// claims are two PersistentVolumes on the node's own disk and their claims. Bound by
// hand where nobody else binds them.
const claims = `apiVersion: v1
kind: PersistentVolume
metadata: {name: pv-%[1]s}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: manual
  local: {path: %[2]s}
  claimRef: {namespace: default, name: %[1]s}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node1]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[1]s}
spec: {accessModes: [ReadWriteOnce], storageClassName: manual, volumeName: pv-%[1]s, resources: {requests: {storage: 1Gi}}}
---
`

// blockClaims are the same of volumes that are devices.
var blockClaims = strings.NewReplacer("spec:\n  capacity", "spec:\n  volumeMode: Block\n  capacity", "spec: {accessModes", "spec: {volumeMode: Block, accessModes").Replace(claims)

// volumePod is for a RuntimeClass.
const volumePod = `apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  runtimeClassName: %[1]s
  terminationGracePeriodSeconds: 2
  containers:
  - name: c
    image: docker.io/library/busybox:latest
    command: [sh, -c, 'touch /scratch/x; dd if=/dev/raw bs=1M 2>/dev/null | tr -d "\0"; echo plaintext-of-raw | dd of=/dev/raw bs=1M seek=5 conv=fsync 2>/dev/null; cat /data/mark /logs/mark; echo plaintext-of-data >> /data/mark; echo plaintext-of-logs >> /logs/mark; id > /data/id; echo wrote; trap "exit 0" TERM; while true; do sleep 0.2; done']
    volumeMounts: [{name: data, mountPath: /data, subPath: inner}, {name: logs, mountPath: /logs}, {name: scratch, mountPath: /scratch}]
    volumeDevices: [{name: raw, devicePath: /dev/raw}]
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: data}}
  - {name: logs, persistentVolumeClaim: {claimName: logs}}
  - {name: raw, persistentVolumeClaim: {claimName: raw}}
  - {name: scratch, emptyDir: {sizeLimit: 64Mi}}
`

// TestVolumes keeps two PersistentVolumes, and with a VM a third one that is a device, from
// one pod to the next, and finds each to be the one that it was. The node sees no content.
func TestVolumes(t *testing.T) { withEach(t, testVolumes) }

func testVolumes(t *testing.T, h holder) {
	k := cluster
	k.known(t, h)
	dir := strings.TrimSpace(k.must(t, "mktemp", "-d"))
	t.Cleanup(func() { _, _ = k.in("rm", "-r", dir) })
	manifest := ""
	for _, name := range []string{"data", "logs"} {
		k.must(t, "mkdir", dir+"/"+name)
		manifest += fmt.Sprintf(claims, name, dir+"/"+name)
	}
	bound, device := "Bound Bound", ""
	if h.tee == "tpm-sim" {
		bound += " Bound"
		k.must(t, "truncate", "-s", "32M", dir+"/raw")
		device = strings.TrimSpace(k.must(t, "losetup", "--find", "--show", dir+"/raw"))
		t.Cleanup(func() { _, _ = k.in("losetup", "--detach", device) })
		manifest += fmt.Sprintf(blockClaims, "raw", device)
	}
	k.apply(t, k.file(t, manifest))
	eventually(t, "bound claims", func() (bool, string) {
		out, err := k.in("kubectl", "get", "persistentvolumeclaims", "-o", "jsonpath={.items[*].status.phase}")
		return err == nil && out == bound, fmt.Sprint(out, err)
	})
	flags := []string{"--volume-new", "data", "--volume-size", "data=64Mi", "--volume-new", "logs", "--volume-size", "logs=32Mi"}
	manifest = fmt.Sprintf(volumePod, h.class)
	repository := h.tee + "/volumes/"
	read := "plaintext-of-data\nplaintext-of-logs\n"
	if h.tee == "tpm-sim" {
		flags = append(flags, "--volume-on-disk", "scratch", "--volume-new", "raw", "--volume-key", "raw=kbs:///"+repository+"data")
		read = "plaintext-of-raw\n" + read
	} else { // a process has no disks of its own, no devices, and no sub-paths of volumes
		for _, without := range []string{", subPath: inner", "    volumeDevices: [{name: raw, devicePath: /dev/raw}]\n", "  - {name: raw, persistentVolumeClaim: {claimName: raw}}\n"} {
			manifest = strings.Replace(manifest, without, "", 1)
		}
	}
	for _, name := range []string{"data", "logs"} {
		flags = append(flags, "--volume-key", name+"=kbs:///"+repository+name)
	}
	path, seal := k.seal(t, h.tee, manifest, flags...)
	for _, name := range []string{"data", "logs"} {
		k.must(t, append([]string{"coffer", "secret", "put", repository + name, "-n", "sim", "--generate", "32", "--for", seal}, k.trustee...)...)
	}
	k.apply(t, path)
	k.logs(t, "keeper", "wrote")
	if out, err := k.in("grep", "-r", "-l", "-e", "plaintext-of", "-e", "lost+found", dir); err == nil || out != "" {
		t.Errorf("the node reads in %s: %v", out, err)
	}
	k.must(t, "kubectl", "delete", "pod", "keeper", "--timeout=60s")
	k.nothingLeft(t)

	// In the next pod each volume's disk has the other's place.
	k.must(t, "mkdir", dir+"/x")
	for _, mv := range [][2]string{{"data", "x"}, {"logs", "data"}, {"x", "logs"}} {
		k.must(t, "mv", dir+"/"+mv[0]+"/coffer-volume.disk", dir+"/"+mv[1]+"/coffer-volume.disk")
	}
	if h.tee == "tpm-sim" { // and all of them have grown
		k.must(t, "truncate", "-s", "40M", dir+"/raw")
		k.must(t, "losetup", "--set-capacity", device)
		flags[slices.Index(flags, "data=64Mi")] = "data=80Mi"
		path, seal = k.seal(t, h.tee, manifest, flags...)
		for _, name := range []string{"data", "logs"} {
			k.must(t, append([]string{"coffer", "secret", "bind", repository + name, "-n", "sim", "--for", seal}, k.trustee...)...)
		}
	}
	k.apply(t, path)
	k.logs(t, "keeper", "wrote")
	if out := k.must(t, "stat", "-c", "%s", dir+"/data/coffer-volume.disk"); h.tee == "tpm-sim" && out != fmt.Sprintln(80<<20) {
		t.Errorf("the volume's file has %s bytes", out)
	}
	out := k.must(t, "kubectl", "logs", "keeper")
	if !strings.Contains(out, read) {
		t.Errorf("the second pod read %q", out)
	}
	k.must(t, "kubectl", "delete", "pod", "keeper", "--timeout=60s")
	k.nothingLeft(t)
}
