package pod

import (
	"slices"
	"testing"
)

// TestWhatTheClusterMayHaveOtherwise: sealing notes what the files at hand do not say.
func TestWhatTheClusterMayHaveOtherwise(t *testing.T) {
	p, err := Parse([]byte(withContainer(`envFrom: [{configMapRef: {name: gone, optional: true}}, {secretRef: {name: s, optional: true}}]
env:
- {name: A, valueFrom: {secretKeyRef: {name: none, key: k, optional: true}}}
- {name: C, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: B, valueFrom: {configMapKeyRef: {name: c, key: none, optional: true}}}`) + `  volumes:
  - {name: v, secret: {secretName: none, optional: true}}
  - {name: w, projected: {sources: [{configMap: {name: gone, optional: true}}]}}
` + objects))
	if err != nil {
		t.Fatal(err)
	}
	const denied = " is not in the file, and sealed as absent: where the cluster has it, the guest denies the pod"
	want := []string{
		"spec.containers[0].envFrom[0].configMapRef: ConfigMap gone" + denied,
		"spec.containers[0].env[0].valueFrom.secretKeyRef: Secret none" + denied,
		"spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: the manifest names no namespace, and is sealed for default: applied to another one, the guest denies the pod",
		"spec.volumes[0].secret: Secret none" + denied,
		"spec.volumes[1].projected.sources[0].configMap: ConfigMap gone" + denied,
	}
	if !slices.Equal(p.SealNotes, want) {
		t.Errorf("got %q\nwant %q", p.SealNotes, want)
	}
	if len(p.Notes) > 0 || len(p.Unsealable) > 0 { // coffer run has nothing to say
		t.Errorf("%q %v", p.Notes, p.Unsealable)
	}
}
