package spec

import (
	"slices"
	"strings"
	"testing"

	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/owner/pod"
)

const diskPod = `apiVersion: v1
kind: Pod
metadata: {name: db}
spec:
  containers:
  - name: db
    image: x
    volumeMounts: [{name: data, mountPath: /var/db}, {name: old, mountPath: /old}, {name: tmp, mountPath: /tmp}]
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: db}}
  - {name: old, persistentVolumeClaim: {claimName: old, readOnly: true}}
  - {name: tmp, emptyDir: {sizeLimit: 1Gi}}
  - {name: unused, persistentVolumeClaim: {claimName: unused}}
`

func diskOptions() Options {
	return Options{Disks: map[string]Disk{
		"data": {Key: "kbs:///default/volumes/data", New: true, Bytes: 10 << 30}, "old": {Key: "kbs:///default/volumes/old"}, "tmp": {},
	}}
}

func TestDisks(t *testing.T) {
	policy, _ := build(t, diskPod, diskOptions())
	data, old, tmp := policy.Volume("data"), policy.Volume("old"), policy.Volume("tmp")
	if len(policy.Disks()) != 3 || data.Key != "kbs:///default/volumes/data" || !data.New || data.SizeLimit != 10<<30 ||
		old.New || old.SizeLimit != 0 || tmp.Kind != podpolicy.VolumeDisk || tmp.Key != "" || tmp.SizeLimit != 1<<30 {
		t.Errorf("%+v", policy.Volumes)
	}
	if m := policy.Containers[0].Mounts; m[0].ReadOnly || !m[1].ReadOnly || m[2].ReadOnly {
		t.Errorf("%+v", m)
	}
	if policy, _ = build(t, strings.Replace(diskPod, "1Gi", "1Mi", 1), diskOptions()); policy.Volume("tmp").SizeLimit != podpolicy.MinDisk {
		t.Errorf("a disk of %d bytes holds nothing", policy.Volume("tmp").SizeLimit)
	}
}

func TestDisksRefused(t *testing.T) {
	for want, c := range map[string]struct {
		old, with string
		change    func(d map[string]Disk)
	}{
		"spec.volumes[0].persistentVolumeClaim: its volume needs a key": {change: func(d map[string]Disk) { delete(d, "data") }},
		"spec.volumes[2].emptyDir: ends with its pod":                   {change: func(d map[string]Disk) { d["tmp"] = Disk{Key: "kbs:///a/b/c"} }},
		"spec.volumes[2].emptyDir.sizeLimit: missing":                   {old: "{sizeLimit: 1Gi}", with: "{}"},
		"spec.volumes[2]: a volume on a disk is a":                      {old: "{sizeLimit: 1Gi}", with: "{medium: Memory}"},
		"no container has a volume none":                                {change: func(d map[string]Disk) { d["none"] = Disk{} }},
		"no container has a volume unused":                              {change: func(d map[string]Disk) { d["unused"] = Disk{Key: "kbs:///a/b/c"} }},
		"volumes[data].key":                                             {change: func(d map[string]Disk) { d["data"] = Disk{Key: "https://example/key"} }},
	} {
		o := diskOptions()
		if c.change != nil {
			c.change(o.Disks)
		}
		p, err := pod.Parse([]byte(strings.Replace(diskPod, c.old, c.with, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err = Build(p, map[string]*ResolvedImage{"x": fakeImage()}, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

const blockPod = `apiVersion: v1
kind: Pod
metadata: {name: db}
spec:
  securityContext: {fsGroup: 7}
  containers:
  - name: db
    image: x
    volumeDevices: [{name: raw, devicePath: /dev/xvda/}, {name: old, devicePath: /srv/old}]
  - name: beside
    image: x
    volumeMounts: [{name: tmp, mountPath: /tmp}]
  volumes:
  - {name: raw, persistentVolumeClaim: {claimName: raw}}
  - {name: old, persistentVolumeClaim: {claimName: old, readOnly: true}}
  - {name: tmp, emptyDir: {}}
`

func blockOptions() Options {
	return Options{Disks: map[string]Disk{"raw": {Key: "kbs:///default/volumes/raw", New: true, Bytes: 1 << 30}, "old": {Key: "kbs:///default/volumes/old"}}}
}

// A block volume is a device of the containers that name it, as its claim says.
func TestBlockVolumes(t *testing.T) {
	policy, plan := build(t, blockPod, blockOptions())
	raw, old := policy.Volume("raw"), policy.Volume("old")
	if !raw.Block || !raw.New || raw.GID != nil || !old.Block || policy.Volume("tmp").Block {
		t.Errorf("%+v", policy.Volumes)
	}
	want := []podpolicy.Device{{Volume: "raw", Path: "/dev/xvda"}, {Volume: "old", Path: "/srv/old", ReadOnly: true}}
	if got := policy.Containers[0].Devices; !slices.Equal(got, want) || len(policy.Containers[1].Devices) != 0 {
		t.Errorf("%+v", got)
	}
	req := plan.Containers[0].Create("c", "s")
	if len(req.Devices) != 2 || req.Devices[0].ContainerPath != "/dev/xvda" || len(req.OCI.Linux.Devices) != 2 || len(plan.Containers[1].Create("d", "s").Devices) != 0 {
		t.Errorf("%+v", req)
	}
}

func TestBlockVolumesRefused(t *testing.T) {
	for want, c := range map[string]struct{ old, with string }{
		"raw is mounted, too":                      {"{name: tmp, mountPath: /tmp}", "{name: raw, mountPath: /tmp}"},
		"tmp is no persistentVolumeClaim":          {"{name: raw, devicePath", "{name: tmp, devicePath"},
		"raw twice":                                {"{name: old, devicePath", "{name: raw, devicePath"},
		"where the container has /dev/shm":         {"/dev/xvda/", "/dev/shm/x"},
		"where the container has /srv/old":         {"/dev/xvda/", "/srv/old/x"},
		"where the container has /etc/resolv.conf": {"/srv/old", "/etc/resolv.conf"},
		"its volume needs a key":                   {"{name: old, persistentVolumeClaim: {claimName: old, readOnly: true}}", "{name: old, persistentVolumeClaim: {claimName: old}}"},
	} {
		o := blockOptions()
		if strings.Contains(want, "key") {
			delete(o.Disks, "old")
		}
		p, err := pod.Parse([]byte(strings.Replace(blockPod, c.old, c.with, 1)))
		if err == nil {
			_, _, err = Build(p, map[string]*ResolvedImage{"x": fakeImage()}, o)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Images on a disk take no memory.
func TestImagesOnDisk(t *testing.T) {
	const one = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: a, image: x}]}\n"
	p, err := pod.Parse([]byte(one))
	if err != nil {
		t.Fatal(err)
	}
	img := fakeImage()
	img.LayerBytes = 1 << 30
	size := func(o Options) (*podpolicy.Policy, int) {
		policy, plan, err := Build(p, map[string]*ResolvedImage{"x": img}, o)
		if err != nil {
			t.Fatal(err)
		}
		return policy, plan.MemoryMiB
	}
	_, memory := size(Options{})
	policy, onDisk := size(Options{ImagesOnDisk: 4 << 30})
	if v := policy.Volume(podpolicy.ImagesVolume); v == nil || v.SizeLimit != 4<<30 || v.Kept() || memory < 3<<10 || onDisk > 384 {
		t.Errorf("%+v, %d MiB and %d MiB", v, memory, onDisk)
	}
}
