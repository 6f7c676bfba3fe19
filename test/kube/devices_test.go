package kube

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestDevices: a pod names a device by CDI, its VM is started with it, and a secret
// comes only with the device's evidence. The device is simulated; what names it is not.
func TestDevices(t *testing.T) {
	k := cluster
	const class, device = "coffer-snp-sim-gpu", "gpu.coffer.example/nvidia=0"
	annotated := func(name, device, script string) string {
		return strings.Replace(simple(name, class, script), "  labels:", "  annotations: {cdi.k8s.io/gpu: "+device+"}\n  labels:", 1)
	}
	demanded := []string{"--attest-device", "nvidia"}
	for name, c := range map[string]struct {
		manifest, says string
		flags          []string
	}{
		"gpu-unknown": {annotated("gpu-unknown", "gpu.coffer.example/nvidia=9", "sleep 3600"), `device-unknown: device "gpu.coffer.example/nvidia=9"`, nil},
		"gpu-refused": {annotated("gpu-refused", "other.example/gpu=0", "sleep 3600"), `device-not-allowed: device "other.example/gpu=0"`, nil},
		"gpu-missing": {simple("gpu-missing", class, "sleep 3600"), "device-missing: the pod is sealed to attest with a device (nvidia)", demanded},
		"gpu-vfio":    {annotated("gpu-vfio", "gpu.coffer.example/nvidia=vfio", "sleep 3600"), "device-gone: device", nil},
	} {
		t.Run(name, func(t *testing.T) {
			path, _ := k.seal(t, "snp-sim", c.manifest, c.flags...)
			k.apply(t, path)
			k.event(t, name, c.says)
		})
	}
	t.Run("attested", func(t *testing.T) {
		// As a developer would: coffer run registers the simulated hardware that it has started.
		k.must(t, append([]string{"coffer", "namespace", "allow-unproven", "sim", "nvidia-rim"}, k.trustee...)...)
		first := k.file(t, strings.Replace(simple("first", "runc", "echo hello"), "  runtimeClassName: runc\n", "  restartPolicy: Never\n", 1))
		k.must(t, append([]string{"env", "COFFER_CACHE=" + k.cache, "coffer", "run", first, "--tee", "snp-sim", "--sim-device", "nvidia", "--registries", filepath.Join(k.dir, "registries.conf")}, k.trustee...)...)
		get := fmt.Sprintf(httpGet, "/cdh/resource/default/gpu/key", "127.0.0.1", 8006)
		path, seal := k.seal(t, "snp-sim", annotated("gpu", device, get+"; echo; echo asked; env; ls /dev; sleep 3600"), demanded...)
		k.must(t, append([]string{"coffer", "secret", "put", "default/gpu/key", "-n", "sim", "--from-file", k.file(t, "correct horse"), "--for", seal}, k.trustee...)...)
		k.apply(t, path)
		k.logs(t, "gpu", "asked")
		out := k.must(t, "kubectl", "logs", "gpu")
		if !strings.Contains(out, "200 OK") || !strings.Contains(out, "correct horse") {
			t.Errorf("no secret with the device's evidence:\n%s", out)
		}
		if strings.Contains(out, "nvidia") {
			t.Errorf("the container has something of the device, or of its name:\n%s", out)
		}
	})
}
