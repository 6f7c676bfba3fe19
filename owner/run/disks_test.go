package run

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/podpolicy"
)

func TestDisks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	policy := &podpolicy.Policy{Volumes: []podpolicy.Volume{
		{Name: "scratch", Kind: podpolicy.VolumeEmptyDir},
		{Name: "data", Kind: podpolicy.VolumeDisk, Key: "kbs:///default/volumes/data"},
		{Name: "spool", Kind: podpolicy.VolumeDisk, SizeLimit: 1 << 30},
	}}
	got, err := disks(policy, map[string]string{"data": file})
	want := []launch.Disk{{Serial: podpolicy.DiskSerial("data"), Path: file}, {Serial: podpolicy.DiskSerial("spool"), Bytes: 1 << 30}}
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%+v, %v", got, err)
	}
	for want, files := range map[string]map[string]string{
		"give it with --volume data=FILE":  nil,
		"truncate -s SIZE":                 {"data": file + "x"},
		"--volume spool: it ends with":     {"data": file, "spool": file},
		"--volume scratch: the pod has no": {"data": file, "scratch": file},
	} {
		if _, err := disks(policy, files); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", files, err, want)
		}
	}
}

// A process has no devices, and says so before it starts.
func TestBlockVolumesOfAProcess(t *testing.T) {
	policy := &podpolicy.Policy{Volumes: []podpolicy.Volume{{Name: "raw", Kind: podpolicy.VolumeDisk, Key: "kbs:///default/volumes/raw", Block: true}}}
	if err := checkVolumes(&PodOptions{TEE: launch.TPMSim}, policy); err != nil {
		t.Error(err)
	}
	if err := checkVolumes(&PodOptions{TEE: launch.SGXSim}, policy); err == nil || !strings.Contains(err.Error(), "volumeDevices of volume raw: sgx-sim is a process") {
		t.Errorf("%v", err)
	}
}
