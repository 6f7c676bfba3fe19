package kube

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
)

// TestKataVolume has the snapshotter give what other runtimes read that have their guest
// pull: containerd has it from there, mounts such a root itself to look up a user's groups,
// and Coffer's shim takes no notice.
func TestKataVolume(t *testing.T) {
	k := cluster
	restart := func(flags string) {
		pid, err := k.pid("coffer-node snapshotter")
		if err != nil {
			t.Fatal(err)
		}
		k.must(t, "kill", "-9", pid)
		k.must(t, "bash", "-c", "setsid coffer-node snapshotter --root $RUN/snapshotter "+flags+" >> $B/logs/snapshotter.log 2>&1 < /dev/null &")
	}
	restart("--kata-volume")
	defer restart("")
	pod := simple("kata-volume", "coffer-process-sim", "echo here; sleep 3600")
	path, _ := k.seal(t, "sgx-sim", strings.Replace(pod, "  containers:", "  securityContext: {runAsUser: 1000, runAsGroup: 1000}\n  containers:", 1))
	k.apply(t, path)
	k.ready(t, "kata-volume")
	k.logs(t, "kata-volume", "here")
	id := k.must(t, "kubectl", "get", "pod", "kata-volume", "-o", "jsonpath={.status.containerStatuses[0].containerID}")
	_, id, _ = strings.Cut(strings.TrimSpace(id), "://")
	// The mounts as containerd's client has them of the snapshotter.
	out := k.must(t, "ctr", "snapshots", "--snapshotter", "coffer", "mounts", "/nowhere", id)
	_, text, ok := strings.Cut(out, "io.katacontainers.volume=")
	if !ok {
		t.Fatalf("mounts: %s", out)
	}
	text = strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })[0]
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Type   string `json:"volume_type"`
		Source string
		Image  *struct{} `json:"image_pull"`
	}
	if err := json.Unmarshal(b, &v); err != nil || v.Type != "image_guest_pull" || v.Source != "docker.io/library/busybox:latest" || v.Image == nil {
		t.Errorf("the volume is %s, %v", b, err)
	}
	k.must(t, "kubectl", "delete", "pod", "kata-volume", "--timeout=60s")
	k.nothingLeft(t)
}
