package shim

import (
	"encoding/base64"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/podpolicy"
)

// node is a kubelet's folder with a pod of two claims, on paper.
func node(t *testing.T) (*Config, *podpolicy.Policy, string, string) {
	t.Helper()
	dir := t.TempDir()
	c := &Config{KubeletDir: dir, DirectVolumes: filepath.Join(dir, "direct")}
	p := testPolicy()
	p.Volumes = append(p.Volumes,
		podpolicy.Volume{Name: "data", Kind: podpolicy.VolumeDisk, Key: "kbs:///default/volumes/data", New: true, SizeLimit: 64 << 20},
		podpolicy.Volume{Name: "logs", Kind: podpolicy.VolumeDisk, Key: "kbs:///default/volumes/logs"},
		podpolicy.Volume{Name: "spool", Kind: podpolicy.VolumeDisk, SizeLimit: podpolicy.MinDisk},
	)
	volumes := filepath.Join(dir, "pods", "0f1e-2d", "volumes")
	for _, d := range []string{"kubernetes.io~csi/pvc-1/mount", "kubernetes.io~local-volume/pv-2", "kubernetes.io~empty-dir/scratch", "kubernetes.io~projected/kube-api-access-x", "kubernetes.io~configmap/config"} {
		if err := os.MkdirAll(filepath.Join(volumes, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return c, p, "0f1e-2d", volumes
}

func TestAddDisks(t *testing.T) {
	c, p, uid, volumes := node(t)
	h := &holder{spec: new(launch.Spec)}
	if err := h.addDisks(c, p, uid); err != nil {
		t.Fatal(err)
	}
	defer h.close()
	d := h.spec.Disks
	if len(d) != 3 || d[0] != (launch.Disk{Serial: podpolicy.DiskSerial("spool"), Bytes: podpolicy.MinDisk}) || d[1].Serial != podpolicy.ClaimSerial(0) || d[2].Serial != podpolicy.ClaimSerial(1) {
		t.Fatalf("%+v", d)
	}
	for i, dir := range []string{"kubernetes.io~csi/pvc-1/mount", "kubernetes.io~local-volume/pv-2"} {
		file := filepath.Join(volumes, dir, volumeFile)
		fi, err := os.Stat(file)
		if err != nil || fi.Size() != 64<<20 || fi.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", dir, fi, err)
		}
		// The path leads to the very file, wherever it is moved.
		if to, err := os.Readlink(d[1+i].Path); err != nil || to != file {
			t.Errorf("%s: %s leads to %s, %v", dir, d[1+i].Path, to, err)
		}
	}
}

// loop makes a loop device of a file.
func loop(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := osexec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = osexec.Command("losetup", "--detach", device).Run() })
	return device
}

// A block volume is where the kubelet's link to it leads.
func TestBlockVolumes(t *testing.T) {
	c, p, annotations, volumes := node(t)
	p.Volume("logs").Block = true
	if err := os.RemoveAll(filepath.Join(volumes, "kubernetes.io~local-volume")); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(volumes, "..", "volumeDevices", "kubernetes.io~local-volume", "pv-2")
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		t.Fatal(err)
	}
	device := loop(t)
	for to, want := range map[string]string{device: "", "/dev/null": "PersistentVolume pv-2", filepath.Join(volumes, "none"): "PersistentVolume pv-2", volumes: "PersistentVolume pv-2"} {
		_ = os.Remove(link)
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
		h := &holder{spec: new(launch.Spec)}
		err := h.addDisks(c, p, annotations)
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("a link to %s: %v, want %q", to, err, want)
			}
		} else if err != nil || len(h.spec.Disks) != 3 {
			t.Errorf("%+v, %v", h.spec.Disks, err)
		} else if got, err := os.Readlink(h.spec.Disks[1].Path); err != nil || got != device {
			t.Errorf("%s leads to %s, %v", h.spec.Disks[1].Path, got, err)
		}
		h.close()
	}
}

// A volume that is to be larger gets a larger file, with what is in it; a process TEE keeps
// its files as they are.
func TestVolumeFileGrows(t *testing.T) {
	for tee, want := range map[launch.TEE]int64{launch.TPMSim: 64 << 20, launch.SGXSim: 32 << 20} {
		c, p, annotations, volumes := node(t)
		c.TEE = tee
		file := filepath.Join(volumes, "kubernetes.io~local-volume/pv-2", volumeFile)
		if err := os.WriteFile(file, []byte("head"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, 32<<20); err != nil {
			t.Fatal(err)
		}
		h := &holder{spec: new(launch.Spec)}
		if err := h.addDisks(c, p, annotations); err != nil {
			t.Fatal(err)
		}
		h.close()
		b, err := os.ReadFile(file)
		if err != nil || int64(len(b)) != want || string(b[:4]) != "head" {
			t.Errorf("%s: %d bytes, %v", tee, len(b), err)
		}
	}
}

// Whoever can write to a PersistentVolume must not have the guest get another file of
// the node's.
func TestForeignVolumeFile(t *testing.T) {
	for name, put := range map[string]func(t *testing.T, file, other string) error{
		"symbolic link out": func(_ *testing.T, file, other string) error { return os.Symlink(other, file) },
		"device":            func(_ *testing.T, file, _ string) error { return unix.Mknod(file, unix.S_IFCHR|0o600, 0x103) },
		"FIFO":              func(_ *testing.T, file, _ string) error { return unix.Mkfifo(file, 0o600) },
		"folder":            func(_ *testing.T, file, _ string) error { return os.Mkdir(file, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			c, p, uid, volumes := node(t)
			dir := filepath.Join(volumes, "kubernetes.io~local-volume/pv-2")
			other := filepath.Join(t.TempDir(), "other")
			if err := os.WriteFile(other, make([]byte, 4096), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := put(t, filepath.Join(dir, volumeFile), other); err != nil {
				t.Fatal(err)
			}
			h := &holder{spec: new(launch.Spec)}
			defer h.close()
			if err := h.addDisks(c, p, uid); err == nil || !strings.Contains(err.Error(), "PersistentVolume pv-2") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAddDisksRefuses(t *testing.T) {
	for want, change := range map[string]func(c *Config, p *podpolicy.Policy, uid *string, volumes string){
		"and its uid": func(_ *Config, _ *podpolicy.Policy, uid *string, _ string) { *uid = "../../etc" },
		"1 PersistentVolumes, and its policy 2": func(_ *Config, _ *podpolicy.Policy, _ *string, v string) {
			_ = os.RemoveAll(filepath.Join(v, "kubernetes.io~csi"))
		},
		"lets no new volume be made": func(_ *Config, p *podpolicy.Policy, _ *string, _ string) {
			p.Volume("data").New = false
		},
		"gives a pod 1 GiB": func(c *Config, p *podpolicy.Policy, _ *string, _ string) {
			c.MaxDiskGiB, p.Volume("spool").SizeLimit = 1, 1<<30
		},
		"which has no devices": func(c *Config, p *podpolicy.Policy, _ *string, _ string) {
			c.TEE, p.Volume("logs").Block = launch.SGXSim, true
		},
		"does not say how large": func(_ *Config, p *podpolicy.Policy, _ *string, _ string) {
			p.Volume("data").SizeLimit = 0
		},
	} {
		c, p, uid, volumes := node(t)
		change(c, p, &uid, volumes)
		h := &holder{spec: new(launch.Spec)}
		if err := h.addDisks(c, p, uid); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		h.close()
	}
}

// The record that a driver of direct-assigned volumes writes, as published.
func TestDirectVolume(t *testing.T) {
	c, _, _, volumes := node(t)
	folder := filepath.Join(volumes, "kubernetes.io~csi/pvc-1/mount")
	dir := filepath.Join(c.DirectVolumes, base64.URLEncoding.EncodeToString([]byte(folder)))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		`{"volume-type":"block","device":"/dev/sdx","fstype":"ext4","metadata":{"fsGroup":"1"},"options":["rw"]}`: "/dev/sdx",
		`{"volume-type":"block","device":"sdx"}`:                          "",
		`{"volume-type":"nydus","device":"/dev/sdx"}`:                     "",
		`{"volume-type":"block","device":"` + strings.Repeat("x", 70<<10): "",
	} {
		if err := os.WriteFile(filepath.Join(dir, "mountInfo.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := directDevice(c.DirectVolumes, folder)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%.60s: %q, %v", text, got, err)
		}
	}
	if got, err := directDevice(c.DirectVolumes, folder+strings.Repeat("/x", 200)); got != "" || err != nil {
		t.Errorf("without a record: %q, %v", got, err)
	}
}
