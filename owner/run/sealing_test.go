package run

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSealRefusesWhatAClusterChanges: before anything is looked up or registered.
func TestSealRefusesWhatAClusterChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pod.yaml")
	const text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: app, image: x, volumeMounts: [{name: v, mountPath: /v}]}]\n" +
		"  volumes: [{name: v, downwardAPI: {items: [{path: all, fieldRef: {fieldPath: metadata.annotations}}]}}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Seal(t.Context(), PodOptions{File: file}, func(string) {})
	var input *InputError
	if !errors.As(err, &input) || !strings.Contains(err.Error(), file+": spec.volumes[0].downwardAPI.items[0].fieldRef.fieldPath: a kubelet adds to them: name single ones") {
		t.Errorf("%v", err)
	}
	p, err := loadPod(file)
	if err != nil {
		t.Fatal(err)
	}
	if files, _, err := p.VolumeFiles(p.Volume("v")); err != nil || len(files) != 1 {
		t.Errorf("coffer run takes it: %v %v", files, err)
	}
}
